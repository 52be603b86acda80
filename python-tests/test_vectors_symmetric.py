"""NIST and Wycheproof vectors through the C ABI: AES, MACs, digests, derivation."""

import pytest

from cryptoki import Error, Mechanism, ck, ctr, gcm, hkdf
from vectors import covers, rsp, sample, wycheproof

SECRET = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_PRIVATE: False, ck.CKA_TOKEN: False}
OPEN = {**SECRET, ck.CKA_SENSITIVE: False, ck.CKA_EXTRACTABLE: True}
HASHES = {"SHA1": "SHA_1", "SHA224": "SHA224", "SHA256": "SHA256", "SHA384": "SHA384", "SHA512": "SHA512",
          "SHA512_224": "SHA512_224", "SHA512_256": "SHA512_256", "SHA3_224": "SHA3_224", "SHA3_256": "SHA3_256",
          "SHA3_384": "SHA3_384", "SHA3_512": "SHA3_512"}


def aes(session, value, **more):
    return session.create({**OPEN, ck.CKA_KEY_TYPE: ck.CKK_AES, ck.CKA_VALUE: value, **{
        getattr(ck, f"CKA_{name}"): True for name in more}})


def generic(session, value, kind=None, **more):
    return session.create({**OPEN, ck.CKA_KEY_TYPE: kind or ck.CKK_GENERIC_SECRET, ck.CKA_VALUE: value, **{
        getattr(ck, f"CKA_{name}"): True for name in more}})


def sections(path):
    """The response files have [ENCRYPT] and [DECRYPT] parts."""
    return list(rsp(path))


@pytest.mark.parametrize("bits", [128, 192, 256])
@pytest.mark.parametrize("kind", ["GFSbox", "KeySbox", "VarKey", "VarTxt", "MMT"])
@pytest.mark.parametrize("mode", ["ECB", "CBC"])
@covers("CKM_AES_ECB", "CKM_AES_CBC")
def test_aes_nist(session, mode, kind, bits):
    for section, test in sections(f"ciphers/AES/{mode}/{mode}{kind}{bits}.rsp"):
        key = aes(session, bytes.fromhex(test["KEY"]), ENCRYPT=1, DECRYPT=1)
        plain, sealed = bytes.fromhex(test["PLAINTEXT"]), bytes.fromhex(test["CIPHERTEXT"])
        mechanism = Mechanism(ck.CKM_AES_CBC, bytes.fromhex(test["IV"])) if mode == "CBC" else ck.CKM_AES_ECB
        if "ENCRYPT" in section:
            assert session.encrypt(mechanism, key, plain) == sealed
            assert session.encrypt(mechanism, key, plain, parts=7) == sealed
        else:
            assert session.decrypt(mechanism, key, sealed) == plain
            assert session.decrypt(mechanism, key, sealed, parts=7) == plain
        session.destroy(key)


@pytest.mark.parametrize("bits", [128, 192, 256])
@covers("CKM_AES_CTR")
def test_aes_ctr_rfc3686(session, bits):
    for _, test in rsp(f"ciphers/AES/CTR/aes-{bits}-ctr.txt"):
        key = aes(session, bytes.fromhex(test["KEY"]), ENCRYPT=1, DECRYPT=1)
        plain, sealed = bytes.fromhex(test["PLAINTEXT"]), bytes.fromhex(test["CIPHERTEXT"])
        mechanism = ctr(bytes.fromhex(test["IV"]))
        assert session.encrypt(mechanism, key, plain) == sealed
        assert session.encrypt(mechanism, key, plain, parts=5) == sealed
        assert session.decrypt(mechanism, key, sealed) == plain


@covers("CKM_AES_CBC_PAD")
def test_aes_cbc_pad(session):
    for _, test in wycheproof("aes_cbc_pkcs5"):
        key = aes(session, test["key"], ENCRYPT=1, DECRYPT=1)
        mechanism = Mechanism(ck.CKM_AES_CBC_PAD, test["iv"])
        if test["result"] == "valid":
            assert session.encrypt(mechanism, key, test["msg"]) == test["ct"], test["tcId"]
            assert session.decrypt(mechanism, key, test["ct"]) == test["msg"], test["tcId"]
            assert session.decrypt(mechanism, key, test["ct"], parts=11) == test["msg"], test["tcId"]
        else:
            with pytest.raises(Error):
                session.decrypt(mechanism, key, test["ct"])
        session.destroy(key)


@covers("CKM_AES_GCM")
def test_aes_gcm(session):
    for group, test in wycheproof("aes_gcm"):
        key = aes(session, test["key"], ENCRYPT=1, DECRYPT=1)
        mechanism = gcm(test["iv"], test["aad"], group["tagSize"])
        sealed = test["ct"] + test["tag"]
        if test["result"] == "valid":
            assert session.encrypt(mechanism, key, test["msg"]) == sealed, test["tcId"]
            assert session.encrypt(mechanism, key, test["msg"], parts=9) == sealed, test["tcId"]
            assert session.decrypt(mechanism, key, sealed) == test["msg"], test["tcId"]
            assert session.decrypt(mechanism, key, sealed, parts=9) == test["msg"], test["tcId"]
        else:
            with pytest.raises(Error):
                session.decrypt(mechanism, key, sealed)
        session.destroy(key)


@pytest.mark.parametrize("name, mechanism", [("aes_wrap", "CKM_AES_KEY_WRAP"), ("aes_kwp", "CKM_AES_KEY_WRAP_KWP")])
@covers("CKM_AES_KEY_WRAP", "CKM_AES_KEY_WRAP_KWP")
def test_key_wrap(session, name, mechanism):
    mechanism = getattr(ck, mechanism)
    for _, test in wycheproof(name):
        # With DECRYPT, so that what it unwraps may be read.
        kek = aes(session, test["key"], WRAP=1, UNWRAP=1, DECRYPT=1)
        template = {**OPEN, ck.CKA_KEY_TYPE: ck.CKK_GENERIC_SECRET}
        if test["result"] == "valid":
            key = generic(session, test["msg"])
            assert session.wrap(mechanism, kek, key) == test["ct"], test["tcId"]
            unwrapped = session.unwrap(mechanism, kek, test["ct"], template)
            assert session.get(unwrapped, ck.CKA_VALUE) == test["msg"], test["tcId"]
        elif test["result"] == "invalid":
            with pytest.raises(Error):
                session.unwrap(mechanism, kek, test["ct"], template)
        session.destroy(kek)


@covers("CKM_AES_CMAC", "CKM_AES_CMAC_GENERAL")
def test_aes_cmac(session):
    for group, test in wycheproof("aes_cmac"):
        if len(test["key"]) not in (16, 24, 32):
            with pytest.raises(Error):
                aes(session, test["key"], SIGN=1)
            continue
        key = aes(session, test["key"], SIGN=1, VERIFY=1)
        mac(session, ck.CKM_AES_CMAC, ck.CKM_AES_CMAC_GENERAL, key, group["tagSize"] // 8, 16, test)
        session.destroy(key)


def mac(session, full, general, key, size, whole, test):
    """A tag of `size` bytes, where the mechanism's own has `whole`."""
    mechanism = Mechanism(full) if size == whole else Mechanism(general, [size])
    assert session.verify(mechanism, key, test["msg"], test["tag"]) == (test["result"] == "valid"), test["tcId"]
    if test["result"] == "valid":
        assert session.sign(mechanism, key, test["msg"]) == test["tag"], test["tcId"]
        assert session.sign(mechanism, key, test["msg"], parts=13) == test["tag"], test["tcId"]
        assert session.sign(Mechanism(general, [size]), key, test["msg"]) == test["tag"], test["tcId"]


@pytest.mark.parametrize("hash_", HASHES)
@covers(*(f"CKM_{name}_HMAC{general}" for name in HASHES.values() for general in ("", "_GENERAL")))
def test_hmac(session, hash_):
    full, general = (getattr(ck, f"CKM_{HASHES[hash_]}_HMAC{suffix}") for suffix in ("", "_GENERAL"))
    whole = {"SHA1": 20}.get(hash_) or int(hash_.replace("SHA3_", "").replace("SHA512_", "").replace("SHA", "")) // 8
    for group, test in wycheproof(f"hmac_{hash_.lower()}"):
        key = generic(session, test["key"], SIGN=1, VERIFY=1)
        mac(session, full, general, key, group["tagSize"] // 8, whole, test)
        session.destroy(key)


@pytest.mark.parametrize("hash_", HASHES)
@covers(*(f"CKM_{name}" for name in HASHES.values()))
def test_digest(session, hash_):
    mechanism = getattr(ck, f"CKM_{HASHES[hash_]}")
    folder = "SHA1" if hash_ == "SHA1" else "SHA3" if hash_.startswith("SHA3_") else "SHA2"
    for length in ("Short", "Long"):
        for _, test in rsp(f"hashes/{folder}/{hash_}{length}Msg.rsp"):
            if "Msg" not in test:
                continue
            message = bytes.fromhex(test["Msg"])[:int(test["Len"]) // 8]
            assert session.digest(mechanism, message).hex() == test["MD"].lower()
            assert session.digest(mechanism, message, parts=61).hex() == test["MD"].lower()


@pytest.mark.parametrize("hash_", ["SHA1", "SHA256", "SHA384", "SHA512"])
@covers("CKM_HKDF_DERIVE", "CKM_HKDF_DATA")
def test_hkdf(session, hash_):
    for _, test in wycheproof(f"hkdf_{hash_.lower()}"):
        if test["result"] == "valid" and test["size"] > 8192:
            continue  # longer than a secret key may be
        base = generic(session, test["ikm"], ck.CKK_HKDF, DERIVE=1)
        mechanism = hkdf(getattr(ck, f"CKM_{HASHES[hash_]}"), test["salt"], test["info"])
        template = {**OPEN, ck.CKA_KEY_TYPE: ck.CKK_GENERIC_SECRET, ck.CKA_VALUE_LEN: test["size"]}
        if test["result"] == "valid":
            key = session.derive(mechanism, base, template)
            assert session.get(key, ck.CKA_VALUE) == test["okm"], test["tcId"]
            data = session.derive(hkdf(getattr(ck, f"CKM_{HASHES[hash_]}"), test["salt"], test["info"],
                                       kind=ck.CKM_HKDF_DATA), base,
                                  {ck.CKA_CLASS: ck.CKO_DATA, ck.CKA_VALUE_LEN: test["size"], ck.CKA_PRIVATE: False})
            assert session.get(data, ck.CKA_VALUE) == test["okm"], test["tcId"]
            session.destroy(data)
            session.destroy(key)
        else:
            with pytest.raises(Error):
                session.derive(mechanism, base, template)
        session.destroy(base)


@pytest.mark.parametrize("hash_", ["SHA1", "SHA224", "SHA256", "SHA384", "SHA512"])
@covers("CKM_PKCS5_PBKD2")
def test_pbkdf2(session, hash_):
    prf = getattr(ck, f"CKP_PKCS5_PBKD2_HMAC_{hash_}")
    for _, test in sample(wycheproof(f"pbkdf2_hmac{hash_.lower()}"), 30):
        mechanism = Mechanism(ck.CKM_PKCS5_PBKD2, [
            ck.CKZ_SALT_SPECIFIED, ("pointer", test["salt"]), len(test["salt"]), test["iterationCount"], prf,
            ("pointer", None), 0, ("pointer", test["password"]), len(test["password"])])
        key = session.generate(mechanism, {**OPEN, ck.CKA_KEY_TYPE: ck.CKK_GENERIC_SECRET,
                                           ck.CKA_VALUE_LEN: test["dkLen"]})
        assert session.get(key, ck.CKA_VALUE) == test["dk"], test["tcId"]
        session.destroy(key)


PRFS = {"CMAC_AES128": "CKM_AES_CMAC", "CMAC_AES192": "CKM_AES_CMAC", "CMAC_AES256": "CKM_AES_CMAC",
        "HMAC_SHA1": "CKM_SHA_1_HMAC", "HMAC_SHA224": "CKM_SHA224_HMAC", "HMAC_SHA256": "CKM_SHA256_HMAC",
        "HMAC_SHA384": "CKM_SHA384_HMAC", "HMAC_SHA512": "CKM_SHA512_HMAC"}


def kbkdf_sections():
    """The file's three-line sections: PRF, CTRLOCATION, RLEN, where a later line keeps the earlier ones."""
    section = {}
    for new, test in rsp("KDF/nist-800-108-KBKDF-CTR.txt"):
        section.update(new)
        if section["PRF"] in PRFS and section["CTRLOCATION"] in ("BEFORE_FIXED", "AFTER_FIXED"):
            yield dict(section), test


@covers("CKM_SP800_108_COUNTER_KDF")
def test_sp800_108_counter(session):
    tests = 0
    for section, test in sample(kbkdf_sections(), 400):
        cmac = section["PRF"].startswith("CMAC")
        base_value = bytes.fromhex(test["KI"])
        base = aes(session, base_value, DERIVE=1) if cmac else generic(session, base_value, DERIVE=1)
        width = int(section["RLEN"].split("_")[0])
        fixed = bytes.fromhex(test["FixedInputData"])
        # CK_SP800_108_COUNTER_FORMAT {bLittleEndian, ulWidthInBits}
        counter_format = bytes(8) + width.to_bytes(8, "little")
        mechanism = Mechanism(ck.CKM_SP800_108_COUNTER_KDF)
        keep = [_buffer(counter_format), _buffer(fixed)]
        counter = [ck.CK_SP800_108_ITERATION_VARIABLE, _address(keep[0]), 16]
        data = [ck.CK_SP800_108_BYTE_ARRAY, _address(keep[1]), len(fixed)]
        order = counter + data if section["CTRLOCATION"] == "BEFORE_FIXED" else data + counter
        params = b"".join(number.to_bytes(8, "little") for number in order)
        mechanism = Mechanism(ck.CKM_SP800_108_COUNTER_KDF,
                              [getattr(ck, PRFS[section["PRF"]]), 2, ("pointer", params), 0, ("pointer", None)])
        key = session.derive(mechanism, base, {**OPEN, ck.CKA_KEY_TYPE: ck.CKK_GENERIC_SECRET,
                                               ck.CKA_VALUE_LEN: int(test["L"]) // 8})
        assert session.get(key, ck.CKA_VALUE).hex() == test["KO"], (section, test["COUNT"])
        session.destroy(key)
        session.destroy(base)
        tests += 1
    assert tests > 100


def _buffer(data):
    import ctypes
    return ctypes.create_string_buffer(data, max(len(data), 1))


def _address(buffer):
    import ctypes
    return ctypes.addressof(buffer)
