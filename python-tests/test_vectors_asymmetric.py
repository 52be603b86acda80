"""NIST and Wycheproof vectors through the C ABI: RSA, ECDSA, ECDH, Ed25519, X25519."""

import hashlib
import os

import pytest
from asn1crypto import keys
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding, aes_key_wrap_with_padding

from cryptoki import Error, Mechanism, ck, ecdh, oaep, pss
from vectors import covers, sample, wycheproof

PUBLIC = {ck.CKA_CLASS: ck.CKO_PUBLIC_KEY, ck.CKA_TOKEN: False, ck.CKA_PRIVATE: False}
PRIVATE = {ck.CKA_CLASS: ck.CKO_PRIVATE_KEY, ck.CKA_TOKEN: False, ck.CKA_PRIVATE: False}
OPEN_SECRET = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_GENERIC_SECRET, ck.CKA_TOKEN: False,
               ck.CKA_PRIVATE: False, ck.CKA_SENSITIVE: False, ck.CKA_EXTRACTABLE: True}
CURVES = {"secp256r1": "06082a8648ce3d030107", "secp384r1": "06052b81040022", "secp521r1": "06052b81040023",
          "secp256k1": "06052b8104000a"}
SHA = {"SHA-1": "SHA_1", "SHA-224": "SHA224", "SHA-256": "SHA256", "SHA-384": "SHA384", "SHA-512": "SHA512",
       "SHA3-224": "SHA3_224", "SHA3-256": "SHA3_256", "SHA3-384": "SHA3_384", "SHA3-512": "SHA3_512",
       "SHA-512/224": "SHA512_224", "SHA-512/256": "SHA512_256"}


def octets(number):
    return number.to_bytes((number.bit_length() + 7) // 8 or 1, "big")


def integer(text):
    return octets(int(text, 16))


def sha(name):
    """The hash's mechanism."""
    return getattr(ck, f"CKM_{SHA[name]}")


def mgf(name):
    return getattr(ck, "CKG_MGF1_" + SHA[name].replace("SHA_1", "SHA1"))


def rsa_public(session, group, **usage):
    key = group["publicKey"]
    return session.create({**PUBLIC, ck.CKA_KEY_TYPE: ck.CKK_RSA, ck.CKA_MODULUS: integer(key["modulus"]),
                           ck.CKA_PUBLIC_EXPONENT: integer(key["publicExponent"]), **usages(usage)})


def rsa_private(session, key, **usage):
    names = {"MODULUS": "modulus", "PUBLIC_EXPONENT": "publicExponent", "PRIVATE_EXPONENT": "privateExponent",
             "PRIME_1": "prime1", "PRIME_2": "prime2", "EXPONENT_1": "exponent1", "EXPONENT_2": "exponent2",
             "COEFFICIENT": "coefficient"}
    values = {getattr(ck, f"CKA_{name}"): integer(key[field]) for name, field in names.items()}
    return session.create({**PRIVATE, ck.CKA_KEY_TYPE: ck.CKK_RSA, **values, **usages(usage)})


def usages(names):
    return {getattr(ck, f"CKA_{name}"): bool(on) for name, on in names.items()}


def by_group(file, make):
    """(key, group, test) with the group's key made once."""
    last, key = None, None
    for group, test in wycheproof(file):
        if group is not last:
            last, key = group, make(group)
        yield key, group, test


def agrees(result, test):
    """Wycheproof's "acceptable" may go either way, and so may halves of an ECDSA signature without
    their leading zeros (PKCS#11 3.2 section 6.3.1)."""
    either = test["result"] == "acceptable" or "SignatureSize" in test["flags"]
    assert either or result == (test["result"] == "valid"), test["tcId"]


RSA_FILES = [f"rsa_signature_2048_{h}" for h in ("sha224", "sha256", "sha384", "sha512", "sha3_224", "sha3_256",
                                                 "sha3_384", "sha3_512")] + [
    "rsa_signature_3072_sha256", "rsa_signature_3072_sha512", "rsa_signature_4096_sha384", "rsa_signature_4096_sha512"]


@pytest.mark.parametrize("file", RSA_FILES)
@covers(*(f"CKM_{h}_RSA_PKCS" for h in ("SHA224", "SHA256", "SHA384", "SHA512", "SHA3_224", "SHA3_256", "SHA3_384",
                                        "SHA3_512")))
def test_rsa_pkcs1_verify(session, file):
    for key, group, test in by_group(file, lambda group: rsa_public(session, group, VERIFY=1)):
        mechanism = getattr(ck, f"CKM_{SHA[group['sha']]}_RSA_PKCS")
        agrees(session.verify(mechanism, key, test["msg"], test["sig"]), test)


@covers("CKM_RSA_PKCS", "CKM_RSA_X_509", "CKM_SHA1_RSA_PKCS")
def test_rsa_signatures_of_a_known_key(session):
    """PKCS#1 v1.5 has one right answer: compared with another implementation, byte for byte."""
    ours = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    numbers = ours.private_numbers()
    n, e, d = numbers.public_numbers.n, numbers.public_numbers.e, numbers.d
    hexed = {"modulus": n, "publicExponent": e, "privateExponent": d, "prime1": numbers.p, "prime2": numbers.q,
             "exponent1": numbers.dmp1, "exponent2": numbers.dmq1, "coefficient": numbers.iqmp}
    private = rsa_private(session, {name: f"{value:x}" for name, value in hexed.items()}, SIGN=1, DECRYPT=1)
    public = session.create({**PUBLIC, ck.CKA_KEY_TYPE: ck.CKK_RSA, ck.CKA_MODULUS: octets(n),
                             ck.CKA_PUBLIC_EXPONENT: octets(e), ck.CKA_VERIFY: True, ck.CKA_ENCRYPT: True})
    message = os.urandom(100)
    for name, algorithm in [("SHA1", hashes.SHA1()), ("SHA256", hashes.SHA256()), ("SHA512", hashes.SHA512()),
                            ("SHA3_256", hashes.SHA3_256())]:
        want = ours.sign(message, padding.PKCS1v15(), algorithm)
        mechanism = getattr(ck, f"CKM_{name}_RSA_PKCS")
        assert session.sign(mechanism, private, message) == want
        assert session.sign(mechanism, private, message, parts=33) == want
        assert session.verify(mechanism, public, message, want)
    # A caller's DigestInfo.
    info = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(message).digest()
    want = ours.sign(message, padding.PKCS1v15(), hashes.SHA256())
    assert session.sign(ck.CKM_RSA_PKCS, private, info) == want
    assert session.verify(ck.CKM_RSA_PKCS, public, info, want)
    # Raw: c = m^d mod n, and back.
    raw = b"\0" + os.urandom(255)
    raw = raw if int.from_bytes(raw, "big") < n else bytes(2) + raw[2:]
    want = pow(int.from_bytes(raw, "big"), d, n).to_bytes(256, "big")
    assert session.sign(ck.CKM_RSA_X_509, private, raw) == want
    assert session.encrypt(ck.CKM_RSA_X_509, public, want) == raw
    assert session.decrypt(ck.CKM_RSA_X_509, private, session.encrypt(ck.CKM_RSA_X_509, public, raw)) == raw


PSS_FILES = ["rsa_pss_2048_sha1_mgf1_20", "rsa_pss_2048_sha256_mgf1_0", "rsa_pss_2048_sha256_mgf1_32",
             "rsa_pss_2048_sha256_mgf1sha1_20", "rsa_pss_2048_sha384_mgf1_48", "rsa_pss_3072_sha256_mgf1_32",
             "rsa_pss_4096_sha256_mgf1_32", "rsa_pss_4096_sha512_mgf1_64", "rsa_pss_misc"]


@pytest.mark.parametrize("file", PSS_FILES)
@covers("CKM_SHA1_RSA_PKCS_PSS", "CKM_SHA256_RSA_PKCS_PSS", "CKM_SHA384_RSA_PKCS_PSS", "CKM_SHA512_RSA_PKCS_PSS",
        "CKM_SHA224_RSA_PKCS_PSS", "CKM_RSA_PKCS_PSS")
def test_rsa_pss_verify(session, file):
    for key, group, test in by_group(file, lambda group: rsa_public(session, group, VERIFY=1)):
        if group["sha"] not in SHA or group["mgfSha"] not in SHA or "512/" in group["sha"] + group["mgfSha"]:
            continue
        name = SHA[group["sha"]].replace("SHA_1", "SHA1")
        mechanism = pss(getattr(ck, f"CKM_{name}_RSA_PKCS_PSS"), sha(group["sha"]), mgf(group["mgfSha"]),
                        group["sLen"])
        agrees(session.verify(mechanism, key, test["msg"], test["sig"]), test)
        digest = hashlib.new(group["sha"].replace("SHA-", "sha"), test["msg"]).digest()
        mechanism = pss(ck.CKM_RSA_PKCS_PSS, sha(group["sha"]), mgf(group["mgfSha"]), group["sLen"])
        agrees(session.verify(mechanism, key, digest, test["sig"]), test)


@pytest.mark.parametrize("name", ["SHA1", "SHA224", "SHA256", "SHA384", "SHA512", "SHA3_224", "SHA3_256", "SHA3_384",
                                  "SHA3_512"])
@covers(*(f"CKM_SHA3_{n}_RSA_PKCS_PSS" for n in (224, 256, 384, 512)))
def test_rsa_pss_with_another_implementation(session, name):
    public, private = session.generate_pair(ck.CKM_RSA_PKCS_KEY_PAIR_GEN, {ck.CKA_MODULUS_BITS: 2048}, {})
    other = serialization.load_der_public_key(session.get(public, ck.CKA_PUBLIC_KEY_INFO))
    algorithm = getattr(hashes, name)()
    size = algorithm.digest_size
    mechanism = pss(getattr(ck, f"CKM_{name}_RSA_PKCS_PSS"), getattr(ck, "CKM_" + name.replace("SHA1", "SHA_1")),
                    getattr(ck, f"CKG_MGF1_{name}"), size)
    signature = session.sign(mechanism, private, b"message", parts=3)
    other.verify(signature, b"message", padding.PSS(padding.MGF1(algorithm), size), algorithm)


OAEP_FILES = ["rsa_oaep_2048_sha1_mgf1sha1", "rsa_oaep_2048_sha224_mgf1sha1", "rsa_oaep_2048_sha256_mgf1sha1",
              "rsa_oaep_2048_sha256_mgf1sha256", "rsa_oaep_2048_sha384_mgf1sha384", "rsa_oaep_2048_sha512_mgf1sha512",
              "rsa_oaep_3072_sha256_mgf1sha256", "rsa_oaep_4096_sha512_mgf1sha512", "rsa_oaep_misc"]


@pytest.mark.parametrize("file", OAEP_FILES)
@covers("CKM_RSA_PKCS_OAEP")
def test_rsa_oaep(session, file):
    for key, group, test in by_group(file, lambda group: _oaep_key(session, group)):
        if key is None:
            continue
        mechanism = oaep(sha(group["sha"]), mgf(group["mgfSha"]), test["label"])
        try:
            agrees(session.decrypt(mechanism, key, test["ct"]) == test["msg"], test)
        except Error as error:
            assert error.rv in (ck.CKR_ENCRYPTED_DATA_INVALID, ck.CKR_ENCRYPTED_DATA_LEN_RANGE)
            agrees(False, test)


def _oaep_key(session, group):
    if not 2048 <= group["keySize"] <= 4096 or group["sha"] not in SHA or "512/" in group["sha"] + group["mgfSha"]:
        return None
    return rsa_private(session, group["privateKey"], DECRYPT=1)


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
@covers("CKM_RSA_PKCS")
def test_rsa_pkcs1_decrypt(session, bits):
    """A wrong padding is not told: CKR_OK and other bytes (implicit rejection)."""
    for key, group, test in by_group(f"rsa_pkcs1_{bits}", lambda g: rsa_private(session, g["privateKey"], DECRYPT=1)):
        if len(test["ct"]) != bits // 8:
            with pytest.raises(Error):
                session.decrypt(ck.CKM_RSA_PKCS, key, test["ct"])
            continue
        try:
            plain = session.decrypt(ck.CKM_RSA_PKCS, key, test["ct"])
        except Error as error:
            # Only for what needs no key to see: 0, 1, n - 1, and what is not less than n.
            assert error.rv in (ck.CKR_ENCRYPTED_DATA_INVALID, ck.CKR_ENCRYPTED_DATA_LEN_RANGE)
            number, modulus = int.from_bytes(test["ct"], "big"), int(group["privateKey"]["modulus"], 16)
            assert number in (0, 1) or number >= modulus - 1, test["tcId"]
            continue
        agrees(plain == test["msg"], test)


@covers("CKM_RSA_AES_KEY_WRAP")
def test_rsa_aes_key_wrap(session):
    """Both ways against another implementation: OAEP of an AES key, then that key's KWP."""
    public, private = session.generate_pair(
        ck.CKM_RSA_PKCS_KEY_PAIR_GEN, {ck.CKA_MODULUS_BITS: 2048, ck.CKA_WRAP: True, ck.CKA_ENCRYPT: True},
        {ck.CKA_UNWRAP: True, ck.CKA_DECRYPT: True})
    other = serialization.load_der_public_key(session.get(public, ck.CKA_PUBLIC_KEY_INFO))
    scheme = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    params = b"".join(number.to_bytes(8, "little")
                      for number in (ck.CKM_SHA256, ck.CKG_MGF1_SHA256, ck.CKZ_DATA_SPECIFIED, 0, 0))
    mechanism = Mechanism(ck.CKM_RSA_AES_KEY_WRAP, [256, ("pointer", params)])
    value, aes = os.urandom(32), os.urandom(32)
    blob = other.encrypt(aes, scheme) + aes_key_wrap_with_padding(aes, value)
    key = session.unwrap(mechanism, private, blob, OPEN_SECRET)
    assert session.get(key, ck.CKA_VALUE) == value
    wrapped = session.wrap(mechanism, public, key)
    # The token opens the first part for us: the private half was made with DECRYPT.
    inner = session.decrypt(oaep(ck.CKM_SHA256, ck.CKG_MGF1_SHA256), private, wrapped[:256])
    assert len(inner) == 32
    assert aes_key_unwrap_with_padding(inner, wrapped[256:]) == value
    for at in (0, 300, len(blob) - 1):
        broken = bytearray(blob)
        broken[at % len(blob)] ^= 1
        with pytest.raises(Error) as caught:
            session.unwrap(mechanism, private, bytes(broken), OPEN_SECRET)
        assert caught.value.rv == ck.CKR_WRAPPED_KEY_INVALID


def ec_public(session, curve, point, **usage):
    return session.create({**PUBLIC, ck.CKA_KEY_TYPE: ck.CKK_EC, ck.CKA_EC_PARAMS: bytes.fromhex(CURVES[curve]),
                           ck.CKA_EC_POINT: der_octets(point), **usages(usage)})


def der_octets(data):
    length = bytes([len(data)]) if len(data) < 128 else bytes([0x81, len(data)])
    return b"\x04" + length + data


ECDSA_FILES = [f"ecdsa_{curve}_{h}_p1363" for curve, h in [
    ("secp256r1", "sha256"), ("secp256r1", "sha512"), ("secp384r1", "sha384"), ("secp384r1", "sha512"),
    ("secp521r1", "sha512"), ("secp256k1", "sha256"), ("secp256k1", "sha512")]]


@pytest.mark.parametrize("file", ECDSA_FILES)
@covers("CKM_ECDSA", "CKM_ECDSA_SHA256", "CKM_ECDSA_SHA384", "CKM_ECDSA_SHA512")
def test_ecdsa_verify(session, file):
    curve = file.split("_")[1]
    for key, group, test in by_group(file, lambda g: ec_public(
            session, curve, bytes.fromhex(g["publicKey"]["uncompressed"]), VERIFY=1)):
        mechanism = getattr(ck, f"CKM_ECDSA_{SHA[group['sha']]}")
        agrees(session.verify(mechanism, key, test["msg"], test["sig"]), test)
        digest = hashlib.new(group["sha"].replace("SHA-", "sha"), test["msg"]).digest()
        agrees(session.verify(ck.CKM_ECDSA, key, digest, test["sig"]), test)


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("name", ["SHA1", "SHA224", "SHA256", "SHA384", "SHA512", "SHA3_224", "SHA3_256", "SHA3_384",
                                  "SHA3_512"])
@covers("CKM_ECDSA_SHA1", "CKM_ECDSA_SHA224", *(f"CKM_ECDSA_SHA3_{n}" for n in (224, 256, 384, 512)))
def test_ecdsa_with_another_implementation(session, name, curve):
    public, private = session.generate_pair(ck.CKM_EC_KEY_PAIR_GEN, {ck.CKA_EC_PARAMS: bytes.fromhex(CURVES[curve])}, {})
    other = serialization.load_der_public_key(session.get(public, ck.CKA_PUBLIC_KEY_INFO))
    algorithm = getattr(hashes, name)()
    mechanism = getattr(ck, f"CKM_ECDSA_{name}")
    signature = session.sign(mechanism, private, b"message of some length", parts=5)
    half = len(signature) // 2
    r, s = (int.from_bytes(part, "big") for part in (signature[:half], signature[half:]))
    other.verify(utils.encode_dss_signature(r, s), b"message of some length", ec.ECDSA(algorithm))
    assert session.verify(mechanism, public, b"message of some length", signature)
    assert not session.verify(mechanism, public, b"another message", signature)


@pytest.mark.parametrize("curve", ["secp256r1", "secp384r1", "secp521r1", "secp256k1"])
@covers("CKM_ECDH1_DERIVE", "CKM_ECDH1_COFACTOR_DERIVE")
def test_ecdh(session, curve):
    file = f"ecdh_{curve}" if curve == "secp256k1" else f"ecdh_{curve}_ecpoint"
    size = {"secp521r1": 66, "secp384r1": 48}.get(curve, 32)
    for _, test in sample(wycheproof(file), 400):
        if test["result"] == "acceptable":
            continue
        point = test["public"]
        if curve == "secp256k1":
            # A SubjectPublicKeyInfo: only those that name the curve have a point to give.
            try:
                info = keys.PublicKeyInfo.load(point, strict=True)
                if info["algorithm"]["parameters"].native != "secp256k1":
                    continue
                point = bytes(info["public_key"])
            except (ValueError, TypeError, KeyError):
                continue
        private = session.create({
            **PRIVATE, ck.CKA_KEY_TYPE: ck.CKK_EC, ck.CKA_EC_PARAMS: bytes.fromhex(CURVES[curve]),
            ck.CKA_VALUE: integer(test["private"].hex()).rjust(size, b"\0"), ck.CKA_DERIVE: True})
        template = {**OPEN_SECRET, ck.CKA_VALUE_LEN: size}
        if test["result"] == "valid":
            for kind in (ck.CKM_ECDH1_DERIVE, ck.CKM_ECDH1_COFACTOR_DERIVE):
                key = session.derive(ecdh(point, kind=kind), private, template)
                assert session.get(key, ck.CKA_VALUE) == test["shared"], test["tcId"]
                session.destroy(key)
        else:
            with pytest.raises(Error):
                session.derive(ecdh(point), private, template)
        session.destroy(private)


@pytest.mark.parametrize("name", ["SHA1", "SHA224", "SHA256", "SHA384", "SHA512"])
@covers("CKM_ECDH1_DERIVE")
def test_ecdh_kdf(session, name):
    """CKD_*_KDF is the KDF of ANSI X9.63, with the shared data."""
    test = next(test for _, test in wycheproof("ecdh_secp256r1_ecpoint") if test["result"] == "valid")
    private = session.create({
        **PRIVATE, ck.CKA_KEY_TYPE: ck.CKK_EC, ck.CKA_EC_PARAMS: bytes.fromhex(CURVES["secp256r1"]),
        ck.CKA_VALUE: integer(test["private"].hex()).rjust(32, b"\0"), ck.CKA_DERIVE: True})
    for shared, length in [(b"", 16), (b"shared data", 32), (b"x" * 70, 100)]:
        mechanism = ecdh(test["public"], getattr(ck, f"CKD_{name}_KDF"), shared)
        key = session.derive(mechanism, private, {**OPEN_SECRET, ck.CKA_VALUE_LEN: length})
        want = X963KDF(getattr(hashes, name)(), length, shared or None).derive(test["shared"])
        assert session.get(key, ck.CKA_VALUE) == want


@covers("CKM_EDDSA")
def test_ed25519(session):
    oid = bytes.fromhex("06032b6570")
    for key, _, test in by_group("ed25519", lambda group: session.create({
            **PUBLIC, ck.CKA_KEY_TYPE: ck.CKK_EC_EDWARDS, ck.CKA_EC_PARAMS: oid, ck.CKA_VERIFY: True,
            ck.CKA_EC_POINT: der_octets(bytes.fromhex(group["publicKey"]["pk"]))})):
        agrees(session.verify(ck.CKM_EDDSA, key, test["msg"], test["sig"]), test)


@covers("CKM_EDDSA")
def test_ed25519_signs_what_rfc8032_says(session):
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    want = ("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
            "d25bf5f0595bbe24655141438e7a100b")
    key = session.create({**PRIVATE, ck.CKA_KEY_TYPE: ck.CKK_EC_EDWARDS, ck.CKA_SIGN: True,
                          ck.CKA_EC_PARAMS: bytes.fromhex("06032b6570"), ck.CKA_VALUE: seed})
    assert session.sign(ck.CKM_EDDSA, key, b"").hex() == want


@covers("CKM_ECDH1_DERIVE")
def test_x25519(session):
    for _, test in sample(wycheproof("x25519"), 300):
        private = session.create({**PRIVATE, ck.CKA_KEY_TYPE: ck.CKK_EC_MONTGOMERY, ck.CKA_DERIVE: True,
                                  ck.CKA_EC_PARAMS: bytes.fromhex("06032b656e"), ck.CKA_VALUE: test["private"]})
        template = {**OPEN_SECRET, ck.CKA_VALUE_LEN: 32}
        if set(test["shared"]) == {0}:
            with pytest.raises(Error):
                session.derive(ecdh(test["public"]), private, template)
        else:
            key = session.derive(ecdh(test["public"]), private, template)
            assert session.get(key, ck.CKA_VALUE) == test["shared"], test["tcId"]
            session.destroy(key)
        session.destroy(private)
