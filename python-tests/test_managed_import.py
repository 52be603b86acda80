"""Bring your own key: material wrapped by the openssl command, in each way and for each kind of key; expiry, deletion,
the same bytes again and no others; tokens of another key."""

import hashlib
import hmac

import pytest
from conftest import need, run
from cryptography.hazmat.primitives.asymmetric import utils
from cryptoki import ck, oaep
from managed import DAY, envelope, now, open_kms, refused
from material import MATERIAL, bring, wrap
from test_managed import open_blob

ALGORITHMS = ["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "RSA_AES_KEY_WRAP_SHA_1", "RSA_AES_KEY_WRAP_SHA_256"]
KINDS = [("AES_256", "ENCRYPT_DECRYPT"), ("HMAC_224", "GENERATE_VERIFY_MAC"), ("HMAC_512", "GENERATE_VERIFY_MAC"),
         ("ECC_NIST_P256", "SIGN_VERIFY"), ("ECC_NIST_P521", "SIGN_VERIFY"), ("ECC_ED25519", "SIGN_VERIFY"),
         ("RSA_2048", "SIGN_VERIFY"), ("RSA_3072", "ENCRYPT_DECRYPT")]
SECRETS = {"AES_256": 32, "HMAC_224": 28, "HMAC_256": 32, "HMAC_384": 48, "HMAC_512": 64}
GENPKEY = {
    "ECC_NIST_P256": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "ECC_NIST_P384": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
    "ECC_NIST_P521": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"],
    "ECC_ED25519": ["-algorithm", "ED25519"],
    "RSA_2048": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    "RSA_3072": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"],
}


@pytest.fixture(scope="module")
def kms(module):
    need("openssl")
    return open_kms(module, "import")


def openssl(*arguments):
    return run("openssl", *arguments)


def make_material(directory, spec):
    """Its file: random bytes, or a PKCS#8."""
    file = directory / "material"
    if spec in SECRETS:
        openssl("rand", "-out", file, SECRETS[spec])
    else:
        openssl("genpkey", *GENPKEY[spec], "-outform", "DER", "-out", directory / "traditional")
        openssl("pkcs8", "-topk8", "-nocrypt", "-inform", "DER", "-in", directory / "traditional", "-outform", "DER", "-out", file)
    return file


def wrap_with_openssl(directory, algorithm, public_key, material):
    """What the file `material` becomes."""
    (directory / "wrapping").write_bytes(public_key)
    digest = "sha1" if algorithm.endswith("SHA_1") else "sha256"

    def oaep_of(file):
        openssl("pkeyutl", "-encrypt", "-pubin", "-inkey", directory / "wrapping", "-keyform", "DER", "-in", file, "-out",
                directory / "oaep", "-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", f"rsa_oaep_md:{digest}", "-pkeyopt",
                f"rsa_mgf1_md:{digest}")
        return (directory / "oaep").read_bytes()

    if algorithm.startswith("RSAES"):
        return oaep_of(material)
    openssl("rand", "-out", directory / "aes", 32)
    openssl("enc", "-id-aes256-wrap-pad", "-K", (directory / "aes").read_bytes().hex(), "-iv", "A65959A6", "-in", material,
            "-out", directory / "wrapped")
    return oaep_of(directory / "aes") + (directory / "wrapped").read_bytes()


def works(kms, directory, key, spec, usage, material):
    """That the key is the material: other code does the opposite of what the key did."""
    session, handles = kms.session, kms.objects(key)
    if spec == "AES_256":
        assert open_blob(kms, key, kms.encrypt(key, b"data"), material, 1) == b"data"
        return
    if spec.startswith("HMAC"):
        bits = spec.split("_")[1]
        mac = session.sign(getattr(ck, f"CKM_SHA{bits}_HMAC"), handles[0], b"data")
        assert mac == hmac.new(material, b"data", getattr(hashlib, f"sha{bits}")).digest()
        return
    openssl("pkey", "-inform", "DER", "-in", directory / "material", "-pubout", "-outform", "DER", "-out", directory / "public")
    for handle in handles:
        assert session.get(handle, ck.CKA_PUBLIC_KEY_INFO) == (directory / "public").read_bytes()
    (directory / "data").write_bytes(b"data")
    if usage == "ENCRYPT_DECRYPT":
        openssl("pkeyutl", "-encrypt", "-inkey", directory / "material", "-keyform", "DER", "-in", directory / "data", "-out",
                directory / "encrypted", "-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256")
        opened = session.decrypt(oaep(ck.CKM_SHA256, ck.CKG_MGF1_SHA256), handles[0], (directory / "encrypted").read_bytes())
        assert opened == b"data"
        return
    mechanism, digest = {
        "ECC_NIST_P256": (ck.CKM_ECDSA_SHA256, "-sha256"), "ECC_NIST_P521": (ck.CKM_ECDSA_SHA512, "-sha512"),
        "RSA_2048": (ck.CKM_SHA256_RSA_PKCS, "-sha256"), "ECC_ED25519": (ck.CKM_EDDSA, None),
    }[spec]
    signature = session.sign(mechanism, handles[0], b"data")
    if spec.startswith("ECC_NIST"):
        half = len(signature) // 2
        signature = utils.encode_dss_signature(*[int.from_bytes(part, "big") for part in (signature[:half], signature[half:])])
    (directory / "signature").write_bytes(signature)
    how = ["-rawin"] + (["-digest", digest[1:]] if digest else [])
    openssl("pkeyutl", "-verify", "-inkey", directory / "material", "-keyform", "DER", *how, "-in", directory / "data", "-sigfile",
            directory / "signature")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("spec", "usage"), KINDS)
def test_material_of_openssl(kms, tmp_path, algorithm, spec, usage):
    key = kms.create(spec, KeyUsage=usage, Origin="EXTERNAL")
    assert kms.describe(key)["KeyState"] == "PendingImport"
    # What is longer than a block of the wrapping key needs a larger one, or RSA_AES_KEY_WRAP.
    material = make_material(tmp_path, spec)
    size = material.stat().st_size
    wrapping = "RSA_2048" if size <= 190 or algorithm.startswith("RSA_AES") else "RSA_4096"
    public, token, until = kms.import_parameters(key, algorithm, wrapping)
    assert abs(until - now() - DAY) < 100
    if algorithm.startswith("RSAES") and size > 446:
        with pytest.raises(AssertionError):
            wrap_with_openssl(tmp_path, algorithm, public, material)
        return
    kms.import_material(key, token, wrap_with_openssl(tmp_path, algorithm, public, material))
    said = kms.describe(key)
    assert (said["KeyState"], said["ExpirationModel"]) == ("Enabled", "KEY_MATERIAL_DOES_NOT_EXPIRE")
    works(kms, tmp_path, key, spec, usage, material.read_bytes())


def test_the_wrapping_keys(kms):
    key = kms.create(Origin="EXTERNAL")
    for spec, bits in ("RSA_2048", 2048), ("RSA_3072", 3072), ("RSA_4096", 4096):
        public, token, _ = kms.import_parameters(key, spec=spec)
        assert len(public) > bits // 8 and public not in token
        kms.import_material(key, token, wrap(public, MATERIAL["AES_256"]()))
        kms.delete_material(key)
    for spec in ("RSA_1024", "ECC_NIST_P256", "", "rsa_2048"):
        with refused("CKR_ARGUMENTS_BAD"):
            kms.import_parameters(key, spec=spec)
    for algorithm in ("RSAES_PKCS1_V1_5", "SM2PKE", "", "RSAES_OAEP_SHA_512"):
        with refused("CKR_ARGUMENTS_BAD"):
            kms.import_parameters(key, algorithm)


@pytest.mark.parametrize("spec", ["AES_256", "HMAC_256", "ECC_NIST_P256"])
def test_the_same_bytes_only(kms, spec):
    usage = {"KeyUsage": "SIGN_VERIFY"} if spec.startswith("ECC") else {}
    key = kms.create(spec, Origin="EXTERNAL", **usage)
    material, other = MATERIAL[spec](), MATERIAL[spec]()
    if material == other:
        other = bytes(32)
    token, wrapped = bring(kms, key, material)
    handles = kms.objects(key)
    public, second, _ = kms.import_parameters(key)
    with refused("KMS_R_INCORRECT_KEY_MATERIAL"):
        kms.import_material(key, second, wrap(public, other))
    kms.import_material(key, second, wrap(public, material), valid_to=now() + DAY)
    assert abs(kms.describe(key)["ValidTo"] - now() - DAY) < 100
    kms.delete_material(key)
    said = kms.describe(key)
    assert said["KeyState"] == "PendingImport" and "ValidTo" not in said and "ExpirationModel" not in said
    with refused("KMS_R_INCORRECT_KEY_MATERIAL"):
        kms.import_material(key, second, wrap(public, other))
    assert kms.describe(key)["KeyState"] == "PendingImport"
    # The first token is good again, too.
    kms.import_material(key, token, wrapped)
    assert kms.describe(key)["KeyState"] == "Enabled"
    assert kms.objects(key)[0] == handles[0] and len(kms.objects(key)) == len(handles)
    kms.delete_material(key)
    kms.delete_material(key)


def test_what_was_encrypted_before_opens_after(kms):
    key = kms.create(Origin="EXTERNAL")
    token, wrapped = bring(kms, key, MATERIAL["AES_256"]())
    blob = kms.encrypt(key, b"before")
    handle = kms.objects(key)[0]
    kms.disable(key)
    kms.delete_material(key)
    with refused("KMS_R_INVALID_STATE"):
        kms.decrypt(blob)
    with refused("CKR_KEY_FUNCTION_NOT_PERMITTED"):
        kms.session.decrypt(envelope(), handle, blob)
    kms.import_material(key, token, wrapped)
    kms.enable(key)
    assert kms.decrypt(blob) == b"before"
    assert kms.session.decrypt(envelope(), handle, blob) == b"before"
    with refused("KMS_R_UNSUPPORTED"):
        kms.rotate(key)


def test_what_is_refused(kms):
    key, other, made_here = kms.create(Origin="EXTERNAL"), kms.create(Origin="EXTERNAL"), kms.create()
    material = MATERIAL["AES_256"]()
    public, token, _ = kms.import_parameters(key)
    wrapped = wrap(public, material)
    with refused("KMS_R_INVALID_IMPORT_TOKEN"):
        kms.import_material(other, token, wrapped)
    for call in (lambda: kms.import_parameters(made_here), lambda: kms.delete_material(made_here)):
        with refused("KMS_R_UNSUPPORTED"):
            call()
    with refused("KMS_R_UNSUPPORTED|KMS_R_INVALID_IMPORT_TOKEN"):
        kms.import_material(made_here, token, wrapped)
    for at in range(0, len(token), 97):
        with refused("KMS_R_INVALID_IMPORT_TOKEN"):
            kms.import_material(key, token[:at] + bytes([token[at] ^ 1]) + token[at + 1:], wrapped)
    for broken in (b"", wrapped[:-1], wrapped + b"\0", bytes(256), wrapped[::-1]):
        with refused("KMS_R_INVALID_CIPHERTEXT"):
            kms.import_material(key, token, broken)
    for length in (0, 1, 16, 31, 33, 64):
        with refused("KMS_R_INCORRECT_KEY_MATERIAL"):
            kms.import_material(key, token, wrap(public, bytes(length)))
    for valid_to in (1, now() - 1, now() + 366 * DAY, 2**62):
        with refused("CKR_ARGUMENTS_BAD"):
            kms.import_material(key, token, wrapped, valid_to=valid_to)
    assert kms.describe(key)["KeyState"] == "PendingImport"
    kms.import_material(key, token, wrapped, valid_to=now() + 365 * DAY - 60)

    # A private key of another curve, or what is none.
    pair = kms.create("ECC_NIST_P256", KeyUsage="SIGN_VERIFY", Origin="EXTERNAL")
    public, token, _ = kms.import_parameters(pair, spec="RSA_4096")
    for wrong in (MATERIAL["ECC_NIST_P384"](), MATERIAL["ECC_ED25519"](), b"no key", MATERIAL["ECC_NIST_P256"]()[:-3]):
        with refused("KMS_R_INCORRECT_KEY_MATERIAL"):
            kms.import_material(pair, token, wrap(public, wrong))


def test_what_expires_is_announced(kms):
    soon, later, never = [kms.create(Origin="EXTERNAL") for _ in range(3)]
    for key, valid_to in (later, now() + 40 * DAY), (soon, now() + 10 * DAY), (never, 0):
        bring(kms, key, MATERIAL["AES_256"](), valid_to=valid_to)

    def expiring(days):
        return [key["KeyId"] for key in kms.keys(ExpiringWithinDays=days) if key["KeyId"] in (soon, later, never)]

    assert (expiring(5), expiring(30), expiring(90)) == ([], [soon], [soon, later])
