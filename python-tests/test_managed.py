"""The life of managed keys over the C ABI: made, named, tagged, used, rotated; what the standard's functions do with
them and what they refuse."""

import json

import pytest
from conftest import SO_PIN
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils
from cryptoki import Error, Mechanism, ck, ecdh, gcm, pss
from managed import DAY, envelope, now, open_kms, outcome, refused
from material import MATERIAL, bring
from peer.encoding import Refused, encode
from peer.envelope import name_of, open_envelope

AES = {ck.CKA_KMS_MANAGED: True, ck.CKA_TOKEN: True, ck.CKA_VALUE_LEN: 32}
P256 = bytes.fromhex("06082a8648ce3d030107")


@pytest.fixture(scope="module")
def kms(module):
    return open_kms(module, "managed")


def one(found):
    assert len(found) == 1
    return found[0]


def test_what_a_new_key_is(kms):
    before = now()
    key = kms.create(Description="of the shop", Label="shop key", Tags=[{"TagKey": "team", "TagValue": "blue"}])
    said = kms.describe(key)
    assert before <= said.pop("CreationDate") <= now()
    assert said.pop("EncryptionAlgorithms") == ["SYMMETRIC_DEFAULT"]
    expected = {"KeyId": key, "KeySpec": "AES_256", "KeyUsage": "ENCRYPT_DECRYPT", "KeyState": "Enabled", "Enabled": True,
                "Origin": "HSM", "Description": "of the shop", "MultiRegion": False, "Owner": "user", "KeyVersion": 1,
                "KeyRotationEnabled": False, "Tags": [{"TagKey": "team", "TagValue": "blue"}]}
    assert {name: said.get(name) for name in expected} == expected
    session, handle = kms.session, one(kms.objects(key))
    for kind, value in {
        ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES, ck.CKA_VALUE_LEN: 32,
        ck.CKA_KMS_USAGE: ck.KMS_USAGE_ENCRYPT_DECRYPT, ck.CKA_KMS_ORIGIN: ck.KMS_ORIGIN_HSM,
        ck.CKA_KMS_STATE: ck.KMS_STATE_ENABLED, ck.CKA_KMS_VERSION: 1,
    }.items():
        assert session.get_number(handle, kind) == value
    for kind in ("TOKEN", "PRIVATE", "SENSITIVE", "ALWAYS_SENSITIVE", "NEVER_EXTRACTABLE", "LOCAL", "KMS_MANAGED",
                 "WRAP", "UNWRAP"):
        assert session.get(handle, getattr(ck, f"CKA_{kind}")) == b"\x01", kind
    for kind in ("EXTRACTABLE", "DESTROYABLE", "COPYABLE", "TRUSTED"):
        assert session.get(handle, getattr(ck, f"CKA_{kind}")) == b"\x00", kind
    assert session.get(handle, ck.CKA_ID) == session.get(handle, ck.CKA_KMS_KEY_ID) == key.encode()
    assert session.get(handle, ck.CKA_LABEL) == b"shop key"
    assert session.get(handle, ck.CKA_KMS_TAGS) == encode({"team": "blue"})
    allowed = session.get(handle, ck.CKA_ALLOWED_MECHANISMS)
    assert {int.from_bytes(allowed[at:at + 8], "little") for at in range(0, len(allowed), 8)} == {
        ck.CKM_KMS_ENVELOPE, ck.CKM_KMS_WRAP}
    with refused("CKR_ATTRIBUTE_SENSITIVE"):
        session.get(handle, ck.CKA_VALUE)
    multi = kms.create(MultiRegion=True)
    assert multi.startswith("mrk-") and kms.describe(multi)["MultiRegion"] is True
    assert kms.session.find({ck.CKA_KMS_MANAGED: True, ck.CKA_ID: multi.encode()}) == kms.objects(multi)


@pytest.mark.parametrize(("spec", "usage"), [
    ("RSA_2048", "ENCRYPT_DECRYPT"), ("RSA_2048", "SIGN_VERIFY"), ("RSA_3072", "SIGN_VERIFY"), ("RSA_4096", "SIGN_VERIFY"),
    ("ECC_NIST_P256", "SIGN_VERIFY"), ("ECC_NIST_P256", "KEY_AGREEMENT"), ("ECC_NIST_P384", "SIGN_VERIFY"),
    ("ECC_NIST_P521", "KEY_AGREEMENT"), ("ECC_SECG_P256K1", "SIGN_VERIFY"), ("ECC_ED25519", "SIGN_VERIFY"),
    ("HMAC_224", "GENERATE_VERIFY_MAC"), ("HMAC_256", None), ("HMAC_384", None), ("HMAC_512", None), ("SYMMETRIC_DEFAULT", None),
])
def test_every_spec(kms, spec, usage):
    key = kms.create(spec, **({"KeyUsage": usage} if usage else {}))
    said = kms.describe(key)
    assert said["KeySpec"] == spec.replace("SYMMETRIC_DEFAULT", "AES_256") and usage in (None, said["KeyUsage"])
    handles = kms.objects(key)
    assert len(handles) == (1 if spec.startswith(("HMAC", "SYM")) else 2)
    for handle in handles:
        assert kms.session.get(handle, ck.CKA_KMS_KEY_ID) == key.encode()
    if len(handles) == 2:
        infos = [kms.session.get(handle, ck.CKA_PUBLIC_KEY_INFO) for handle in handles]
        assert infos[0] == infos[1] and serialization.load_der_public_key(infos[0])
    for usage in {"ENCRYPT_DECRYPT", "SIGN_VERIFY", "GENERATE_VERIFY_MAC", "KEY_AGREEMENT"} - {said["KeyUsage"]}:
        other = outcome(lambda: kms.create(spec, KeyUsage=usage, dry_run=True))
        assert other in ("CKR_ARGUMENTS_BAD", "KMS_R_DRY_RUN")


@pytest.mark.parametrize("request_", [
    {"KeySpec": "AES_128"}, {"KeySpec": "RSA_2048"}, {"KeySpec": "HMAC_256", "KeyUsage": "SIGN_VERIFY"}, {"KeySpec": 1},
    {"Origin": "ELSEWHERE"}, {"Colour": "red"}, {"Description": "x" * 8193}, {"KeyId": "a"}, {"MultiRegion": "yes"},
    {"StandardMechanisms": 1},
])
def test_what_is_no_key(kms, request_):
    before = kms.keys()
    with refused("CKR_ARGUMENTS_BAD"):
        kms.ask("CreateKey", request_)
    assert kms.keys() == before


def test_tags_and_description(kms):
    key = kms.create()
    kms.tag(key, {"b": "1", "a": "2", "ünï": ""})
    kms.tag(key, {"b": "3"})
    kms.untag(key, ["a", "never there"])
    tags = {tag["TagKey"]: tag["TagValue"] for tag in kms.describe(key)["Tags"]}
    assert tags == {"b": "3", "ünï": ""}
    kms.tag(key, {f"t{n}": "v" for n in range(48)})
    with refused("KMS_R_LIMIT_EXCEEDED"):
        kms.tag(key, {"one": "more"})
    for name, value in [("", "v"), ("n" * 129, "v"), ("n", "v" * 257)]:
        with refused("KMS_R_INVALID_TAG"):
            kms.tag(key, {name: value})
    kms.set_description(key, "one")
    handle = one(kms.objects(key))
    assert kms.session.get(handle, ck.CKA_KMS_DESCRIPTION) == b"one"
    kms.session.set(handle, {ck.CKA_KMS_DESCRIPTION: "two", ck.CKA_LABEL: "a label"})
    assert kms.describe(key)["Description"] == "two"
    assert kms.session.find({ck.CKA_LABEL: "a label"}) == [handle]
    for kind in ("STATE", "OWNER", "USAGE", "POLICY", "VERSION", "TAGS", "KEY_ID", "MANAGED", "DELETION_DATE", "GRANTS"):
        value = b"x" * 8
        with refused("CKR_ATTRIBUTE_READ_ONLY"):
            kms.session.set(handle, {getattr(ck, f"CKA_KMS_{kind}"): value})
    with refused("CKR_ATTRIBUTE_READ_ONLY|CKR_ACTION_PROHIBITED"):
        kms.session.set(handle, {ck.CKA_ID: "another"})


def test_aliases(kms):
    one_key, other = kms.create(Label="first"), kms.create(Label="second")
    kms.create_alias("alias/a/b_c-D9", one_key)
    assert [alias["AliasName"] for alias in kms.aliases(KeyId=one_key)] == ["alias/a/b_c-D9"]
    assert kms.describe("alias/a/b_c-D9")["KeyId"] == one_key
    find = lambda label: kms.session.find({ck.CKA_LABEL: label, ck.CKA_CLASS: ck.CKO_SECRET_KEY})
    assert find("alias/a/b_c-D9") == kms.objects(one_key)
    blob = kms.encrypt("alias/a/b_c-D9", b"of the first")
    assert kms.decrypt(blob, key="alias/a/b_c-D9") == b"of the first"

    kms.update_alias("alias/a/b_c-D9", other)
    assert find("alias/a/b_c-D9") == kms.objects(other)
    assert kms.aliases(KeyId=one_key) == []
    with refused("KMS_R_INCORRECT_KEY"):
        kms.decrypt(blob, key="alias/a/b_c-D9")
    assert kms.decrypt(blob) == b"of the first"
    kms.delete_alias("alias/a/b_c-D9")
    assert find("alias/a/b_c-D9") == []
    with refused("KMS_R_NOT_FOUND"):
        kms.describe("alias/a/b_c-D9")

    for name in ["", "alias/", "a", "alias/ä", "alias/a b", "alias/" + "a" * 251, "ALIAS/a"]:
        with refused("KMS_R_INVALID_ALIAS_NAME"):
            kms.create_alias(name, one_key)
    kms.create_alias("alias/" + "a" * 250, one_key)
    with refused("KMS_R_ALREADY_EXISTS"):
        kms.create_alias("alias/" + "a" * 250, other)
    for n in range(49):
        kms.create_alias(f"alias/many-{n}", one_key)
    with refused("KMS_R_LIMIT_EXCEEDED"):
        kms.create_alias("alias/one-more", one_key)
    assert len(kms.aliases(KeyId=one_key, Limit=7)) == 50
    # An alias is no object of its own for a program of the standard.
    assert all(kms.session.get_number(h, ck.CKA_CLASS) < ck.CKO_VENDOR_DEFINED for h in kms.session.find({}))
    with refused("KMS_R_INVALID_KEY_USAGE"):
        kms.update_alias("alias/many-1", kms.create("HMAC_256"))


def test_lists_come_in_pages(kms):
    made = {kms.create(Description=f"page {n}") for n in range(5)}
    assert made <= {key["KeyId"] for key in kms.keys(Limit=2)}
    page = kms.ask("ListKeys", Limit=2)
    assert len(page["Keys"]) == 2 and page["Truncated"] and page["NextMarker"]
    for members in [{"Limit": 0}, {"Limit": 1001}, {"Limit": "2"}, {"Marker": "x"}, {"Page": 2}]:
        with refused("CKR_ARGUMENTS_BAD"):
            kms.ask("ListKeys", **members)
    users = json.dumps(kms.ask("ListUsers"))
    assert '"so"' in users and '"user"' in users


def open_blob(kms, key, blob, material, version, context=()):
    """As other code reads it, which has the material."""
    unique = bytes.fromhex(kms.session.get(kms.objects(key)[0], ck.CKA_UNIQUE_ID).decode())
    assert name_of(blob) == (unique, version)
    return open_envelope(blob, material, key, unique, version, dict(context))


def test_blobs_are_read_by_other_code(kms):
    key, material = kms.create(Origin="EXTERNAL"), MATERIAL["AES_256"]()
    bring(kms, key, material)
    context = {"b": "2", "a": "1", "ü": "ï", "empty": ""}
    for blob in [
        kms.encrypt(key, b"a secret", context),
        kms.session.encrypt(envelope(context), kms.objects(key)[0], b"a secret"),
        kms.reencrypt(kms.encrypt(key, b"a secret"), key, {}, context),
    ]:
        assert open_blob(kms, key, blob, material, 1, context) == b"a secret"
        with pytest.raises(Refused):
            open_blob(kms, key, blob, material, 1, {**context, "c": "3"})
    for length in (1, 16, 32, 1024):
        plain, blob = kms.data_key(key, length, context)
        assert len(plain) == length and open_blob(kms, key, blob, material, 1, context) == plain
        _, blob = kms.data_key(key, length, context, plaintext=False)
        assert len(open_blob(kms, key, blob, material, 1, context)) == length


@pytest.mark.parametrize("spec", ["RSA_2048", "RSA_3072", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521", "ECC_SECG_P256K1",
                                  "ECC_ED25519"])
def test_data_key_pairs(kms, spec):
    key = kms.create()
    public, private, blob = kms.data_key_pair(key, spec, {"for": spec})
    loaded = serialization.load_der_private_key(private, None)
    of_private = loaded.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert of_private == public and kms.decrypt(blob, {"for": spec}) == private
    public, nothing, blob = kms.data_key_pair(key, spec, plaintext=False)
    assert nothing is None
    loaded = serialization.load_der_private_key(kms.decrypt(blob), None)
    of_private = loaded.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert of_private == public


def test_envelopes(kms):
    key, other = kms.create(), kms.create()
    assert kms.encrypt(key, b"x") != kms.encrypt(key, b"x")
    for plaintext in (b"", b"x", bytes(4096)):
        assert kms.decrypt(kms.encrypt(key, plaintext)) == plaintext
        handle = kms.objects(key)[0]
        assert kms.session.decrypt(envelope(), handle, kms.session.encrypt(envelope(), handle, plaintext)) == plaintext
    with refused("CKR_FUNCTION_NOT_SUPPORTED"):
        kms.session.encrypt(envelope({"a": "b"}), handle, b"in several parts", parts=7)
    with refused("CKR_DATA_LEN_RANGE"):
        kms.encrypt(key, bytes(4097))
    with refused("CKR_DATA_LEN_RANGE"):
        kms.session.encrypt(envelope(), handle, bytes(4097))

    # The order of the context does not matter, each byte of it does.
    blob = kms.encrypt(key, b"bound", b'{"a":"1","b":"2"}')
    assert kms.decrypt(blob, b' {"b" : "2", "a":"\\u0031"} ') == b"bound"
    for context in ({}, {"a": "1"}, {"a": "1", "b": "2", "c": ""}, {"a": "2", "b": "1"}, {"A": "1", "b": "2"}):
        with refused("KMS_R_INVALID_CIPHERTEXT"):
            kms.decrypt(blob, context)
        with refused("CKR_ENCRYPTED_DATA_INVALID"):
            kms.session.decrypt(envelope(context), handle, blob)
    for context in (b"[]", b'{"a":1}', b'{"":"a"}', b'{"a":"1","a":"1"}', b"{", b'{"a":null}', b"\xff"):
        with refused("CKR_ARGUMENTS_BAD"):
            kms.encrypt(key, b"x", context)
        with refused("CKR_MECHANISM_PARAM_INVALID"):
            kms.session.encrypt(Mechanism(ck.CKM_KMS_ENVELOPE, context), handle, b"x")

    with refused("KMS_R_INCORRECT_KEY"):
        kms.decrypt(blob, {"a": "1", "b": "2"}, key=other)
    for at in range(0, len(blob), 5):
        changed = bytearray(blob)
        changed[at] ^= 1
        assert outcome(lambda: kms.decrypt(bytes(changed), {"a": "1", "b": "2"})) in (
            "KMS_R_INVALID_CIPHERTEXT", "KMS_R_NOT_FOUND", "KMS_R_KEY_UNAVAILABLE")
    again = kms.reencrypt(blob, other, {"a": "1", "b": "2"}, {"c": "3"})
    assert kms.decrypt(again, {"c": "3"}, key=other) == b"bound"
    with refused("KMS_R_INVALID_CIPHERTEXT"):
        kms.reencrypt(blob, other)
    for spec, usage in [("HMAC_256", "GENERATE_VERIFY_MAC"), ("ECC_NIST_P256", "SIGN_VERIFY"), ("RSA_2048", "ENCRYPT_DECRYPT")]:
        wrong = kms.create(spec, KeyUsage=usage)
        for call in (lambda: kms.encrypt(wrong, b"x"), lambda: kms.data_key(wrong), lambda: kms.reencrypt(
                blob, wrong, {"a": "1", "b": "2"})):
            assert outcome(call) in ("KMS_R_INVALID_KEY_USAGE", "KMS_R_UNSUPPORTED")


def test_rotation(kms):
    key = kms.create()
    blobs = [kms.encrypt(key, b"1")]
    for version in range(2, 7):
        kms.rotate(key)
        assert kms.describe(key)["KeyVersion"] == version
        blobs.append(kms.encrypt(key, b"%d" % version))
    assert [name_of(blob)[1] for blob in blobs] == [1, 2, 3, 4, 5, 6]
    assert [kms.decrypt(blob) for blob in blobs] == [b"%d" % version for version in range(1, 7)]
    handle = one(kms.objects(key))
    assert [kms.session.decrypt(envelope(), handle, blob) for blob in blobs] == [b"%d" % n for n in range(1, 7)]
    assert kms.session.get_number(handle, ck.CKA_KMS_VERSION) == 6
    assert [rotation["KeyVersion"] for rotation in kms.rotations(key, Limit=4)] == [1, 2, 3, 4, 5, 6]
    fresh = kms.reencrypt(blobs[0], key)
    assert name_of(fresh)[1] == 6 and kms.decrypt(fresh) == b"1"

    status = kms.ask("GetKeyRotationStatus", KeyId=key)
    assert status["KeyRotationEnabled"] is False
    kms.set_rotation(key)
    status = kms.ask("GetKeyRotationStatus", KeyId=key)
    assert status["KeyRotationEnabled"] and status["RotationPeriodInDays"] == 365
    assert abs(status["NextRotationDate"] - now() - 365 * DAY) < 100
    kms.set_rotation(key, 90)
    assert kms.describe(key)["RotationPeriodInDays"] == 90
    for days in (89, 2561):
        with refused("CKR_ARGUMENTS_BAD"):
            kms.set_rotation(key, days)
    kms.set_rotation(key, enabled=False)
    assert not kms.describe(key)["KeyRotationEnabled"]
    standard = kms.create(StandardMechanisms=True)
    for other in [standard, kms.create("HMAC_256"), kms.create("ECC_NIST_P256", KeyUsage="SIGN_VERIFY")]:
        for call in (lambda: kms.rotate(other), lambda: kms.set_rotation(other)):
            with refused("KMS_R_UNSUPPORTED"):
                call()


def test_the_standards_mechanisms(kms):
    session = kms.session
    # AES-GCM only where it was asked for.
    key = kms.create(StandardMechanisms=True)
    handle = one(kms.objects(key))
    sealed = session.encrypt(gcm(bytes(12), b"aad"), handle, b"data")
    assert session.decrypt(gcm(bytes(12), b"aad"), handle, sealed) == b"data"
    assert kms.decrypt(kms.encrypt(key, b"also")) == b"also"
    strict = one(kms.objects(kms.create()))
    for mechanism in (gcm(bytes(12)), Mechanism(ck.CKM_AES_CBC, bytes(16)), Mechanism(ck.CKM_AES_ECB)):
        with pytest.raises(Error):
            session.encrypt(mechanism, strict, bytes(16))
    with pytest.raises(Error):
        session.encrypt(Mechanism(ck.CKM_AES_CBC, bytes(16)), handle, bytes(16))

    private, public = kms.objects(kms.create("RSA_2048", KeyUsage="SIGN_VERIFY"))
    loaded = serialization.load_der_public_key(session.get(public, ck.CKA_PUBLIC_KEY_INFO))
    signature = session.sign(ck.CKM_SHA256_RSA_PKCS, private, b"data")
    loaded.verify(signature, b"data", padding.PKCS1v15(), hashes.SHA256())
    assert session.verify(ck.CKM_SHA256_RSA_PKCS, public, b"data", signature)
    assert not session.verify(ck.CKM_SHA256_RSA_PKCS, public, b"other", signature)
    mechanism = pss(ck.CKM_SHA384_RSA_PKCS_PSS, ck.CKM_SHA384, ck.CKG_MGF1_SHA384, 48)
    signature = session.sign(mechanism, private, b"in parts", parts=3)
    loaded.verify(signature, b"in parts", padding.PSS(padding.MGF1(hashes.SHA384()), 48), hashes.SHA384())
    with pytest.raises(Error):
        session.decrypt(ck.CKM_RSA_PKCS, private, bytes(256))

    private, public = kms.objects(kms.create("ECC_NIST_P256", KeyUsage="SIGN_VERIFY"))
    raw = session.sign(ck.CKM_ECDSA_SHA256, private, b"data")
    loaded = serialization.load_der_public_key(session.get(private, ck.CKA_PUBLIC_KEY_INFO))
    der = utils.encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    loaded.verify(der, b"data", ec.ECDSA(hashes.SHA256()))
    with pytest.raises(InvalidSignature):
        loaded.verify(der, b"other", ec.ECDSA(hashes.SHA256()))
    with pytest.raises(Error):
        session.derive(ecdh(session.get(public, ck.CKA_EC_POINT)), private, {ck.CKA_VALUE_LEN: 32})

    private, public = kms.objects(kms.create("ECC_ED25519"))
    signature = session.sign(ck.CKM_EDDSA, private, b"data")
    serialization.load_der_public_key(session.get(public, ck.CKA_PUBLIC_KEY_INFO)).verify(signature, b"data")

    for spec, mechanism, length in [("HMAC_224", ck.CKM_SHA224_HMAC, 28), ("HMAC_256", ck.CKM_SHA256_HMAC, 32),
                                    ("HMAC_384", ck.CKM_SHA384_HMAC, 48), ("HMAC_512", ck.CKM_SHA512_HMAC, 64)]:
        handle = one(kms.objects(kms.create(spec)))
        mac = session.sign(mechanism, handle, b"data")
        assert len(mac) == length and session.verify(mechanism, handle, b"data", mac)
        assert not session.verify(mechanism, handle, b"other", mac)
        with pytest.raises(Error):
            session.sign(Mechanism(ck.CKM_SHA256_HMAC_GENERAL, [4]), handle, b"data")

    # At most 4096 bytes of message, in one part or several.
    assert session.sign(mechanism, handle, bytes(4096)) == session.sign(mechanism, handle, bytes(4096), parts=1000)
    for parts in (0, 1000):
        with refused("CKR_DATA_LEN_RANGE"):
            session.sign(mechanism, handle, bytes(4097), parts=parts)
        with refused("CKR_DATA_LEN_RANGE"):
            session.verify(mechanism, handle, bytes(4097), mac, parts=parts)

    agreed = []
    pairs = [kms.objects(kms.create("ECC_NIST_P384", KeyUsage="KEY_AGREEMENT")) for _ in range(2)]
    for (own, _), (_, peer) in (pairs, pairs[::-1]):
        point = session.get(peer, ck.CKA_EC_POINT)[3 if len(session.get(peer, ck.CKA_EC_POINT)) > 130 else 2:]
        shared = session.derive(ecdh(point), own, {
            ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_GENERIC_SECRET, ck.CKA_VALUE_LEN: 48,
            ck.CKA_SENSITIVE: False, ck.CKA_EXTRACTABLE: True})
        agreed.append(session.get(shared, ck.CKA_VALUE))
    assert agreed[0] == agreed[1]


def test_keys_by_template(kms):
    session = kms.session
    handle = session.generate(ck.CKM_AES_KEY_GEN, {**AES, ck.CKA_LABEL: "by template", ck.CKA_KMS_DESCRIPTION: "of a program",
                                                   ck.CKA_KMS_TAGS: encode({"a": "b"})})
    key = session.get(handle, ck.CKA_KMS_KEY_ID).decode()
    said = kms.describe(key)
    assert (said["KeySpec"], said["Description"], said["Tags"]) == ("AES_256", "of a program", [{"TagKey": "a", "TagValue": "b"}])
    assert session.find({ck.CKA_LABEL: "by template"}) == [handle]
    assert session.decrypt(gcm(bytes(12)), handle, session.encrypt(gcm(bytes(12)), handle, b"x")) == b"x"
    assert kms.decrypt(kms.encrypt(key, b"x")) == b"x"
    with refused("KMS_R_UNSUPPORTED"):
        kms.rotate(key)
    only = [ck.CKM_KMS_ENVELOPE, ck.CKM_KMS_WRAP]
    narrow = session.generate(ck.CKM_AES_KEY_GEN, {**AES, ck.CKA_ALLOWED_MECHANISMS: only})
    kms.rotate(session.get(narrow, ck.CKA_KMS_KEY_ID).decode())

    private, public = reversed(session.generate_pair(
        ck.CKM_EC_KEY_PAIR_GEN, {ck.CKA_KMS_MANAGED: True, ck.CKA_EC_PARAMS: P256, ck.CKA_TOKEN: True, ck.CKA_VERIFY: True},
        {ck.CKA_SIGN: True, ck.CKA_TOKEN: True}))
    key = session.get(private, ck.CKA_KMS_KEY_ID).decode()
    assert kms.objects(key) == [private, public] and kms.describe(key)["KeyUsage"] == "SIGN_VERIFY"
    assert session.verify(ck.CKM_ECDSA, public, bytes(32), session.sign(ck.CKM_ECDSA, private, bytes(32)))
    mac = session.generate(ck.CKM_SHA256_KEY_GEN, {ck.CKA_KMS_MANAGED: True, ck.CKA_TOKEN: True, ck.CKA_KMS_SPEC: "HMAC_256"})
    assert kms.describe(session.get(mac, ck.CKA_KMS_KEY_ID).decode())["KeyUsage"] == "GENERATE_VERIFY_MAC"

    before = kms.keys()
    for wrong, code in [
        ({ck.CKA_TOKEN: False}, "CKR_TEMPLATE_INCONSISTENT"), ({ck.CKA_EXTRACTABLE: True}, "CKR_TEMPLATE_INCONSISTENT"),
        ({ck.CKA_SENSITIVE: False}, "CKR_TEMPLATE_INCONSISTENT"), ({ck.CKA_DESTROYABLE: True}, "CKR_TEMPLATE_INCONSISTENT"),
        ({ck.CKA_WRAP: False}, "CKR_TEMPLATE_INCONSISTENT"), ({ck.CKA_VALUE_LEN: 16}, "CKR_TEMPLATE_INCONSISTENT"),
        ({ck.CKA_KMS_STATE: ck.KMS_STATE_ENABLED}, "CKR_ATTRIBUTE_READ_ONLY"),
        ({ck.CKA_KMS_OWNER: "so"}, "CKR_ATTRIBUTE_READ_ONLY"), ({ck.CKA_ID: "mine"}, "CKR_TEMPLATE_INCONSISTENT"),
        ({ck.CKA_KMS_USAGE: ck.KMS_USAGE_SIGN_VERIFY}, "CKR_ATTRIBUTE_VALUE_INVALID"),
        ({ck.CKA_KMS_TAGS: b"\xff"}, "CKR_ATTRIBUTE_VALUE_INVALID"),
    ]:
        with refused(code):
            session.generate(ck.CKM_AES_KEY_GEN, {**AES, **wrong})
    with pytest.raises(Error):
        session.create({ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES, ck.CKA_VALUE: bytes(32),
                        ck.CKA_KMS_MANAGED: True, ck.CKA_TOKEN: True})
    assert kms.keys() == before


def test_what_the_standard_may_not_do(kms):
    session = kms.session
    key = kms.create()
    handle = one(kms.objects(key))
    with refused("CKR_ACTION_PROHIBITED"):
        session.destroy(handle)
    with pytest.raises(Error):
        session.copy(handle, {ck.CKA_LABEL: "a copy"})
    wrapping = session.generate(ck.CKM_AES_KEY_GEN, {ck.CKA_VALUE_LEN: 32, ck.CKA_WRAP: True, ck.CKA_TOKEN: False})
    with pytest.raises(Error):
        session.wrap(ck.CKM_AES_KEY_WRAP, wrapping, handle)
    with pytest.raises(Error):
        session.wrap(ck.CKM_AES_KEY_WRAP, handle, wrapping)
    with pytest.raises(Error):
        session.call("C_DigestInit", Mechanism(ck.CKM_SHA256).c), session.call("C_DigestKey", handle)
    kms.disable(key)
    with refused("CKR_ACTION_PROHIBITED"):
        session.destroy(handle)
    assert kms.describe(key)["KeyState"] == "Disabled"


def test_a_token_with_managed_keys_is_not_initialised(module):
    kms = open_kms(module, "kept")
    slot, key = module.slot_of("kept"), kms.create()
    kms.session.close()
    with refused("CKR_TOKEN_WRITE_PROTECTED"):
        module.init_token(slot, SO_PIN.encode(), "lost")
    session = module.session(module.slot_of("kept"))
    session.login(b"9876-user")
    assert session.find({ck.CKA_ID: key.encode()})
    session.close()


def test_dry_runs_do_nothing(kms):
    key = kms.create(Description="as it was")
    blob = kms.encrypt(key, b"x")
    external = kms.create(Origin="EXTERNAL")
    before = kms.describe(key), kms.keys(), kms.aliases()
    for call in [
        lambda: kms.create(dry_run=True), lambda: kms.disable(key, dry_run=True), lambda: kms.enable(key, dry_run=True),
        lambda: kms.schedule_deletion(key, dry_run=True), lambda: kms.set_description(key, "", dry_run=True),
        lambda: kms.tag(key, {"a": "b"}, dry_run=True), lambda: kms.untag(key, ["a"], dry_run=True),
        lambda: kms.create_alias("alias/dry", key, dry_run=True), lambda: kms.rotate(key, dry_run=True),
        lambda: kms.set_rotation(key, dry_run=True), lambda: kms.encrypt(key, b"x", dry_run=True),
        lambda: kms.decrypt(blob, dry_run=True), lambda: kms.reencrypt(blob, key, dry_run=True),
        lambda: kms.data_key(key, dry_run=True), lambda: kms.data_key(key, plaintext=False, dry_run=True),
        lambda: kms.data_key_pair(key, "ECC_NIST_P256", dry_run=True),
        lambda: kms.import_parameters(external, dry_run=True), lambda: kms.run_due(dry_run=True),
    ]:
        with refused("KMS_R_DRY_RUN"):
            call()
    # What would fail fails in the same way.
    with refused("KMS_R_INVALID_STATE"):
        kms.cancel_deletion(key, dry_run=True)
    with refused("KMS_R_INVALID_CIPHERTEXT"):
        kms.decrypt(b"no blob", dry_run=True)
    with refused("CKR_ARGUMENTS_BAD"):
        kms.schedule_deletion(key, 6, dry_run=True)
    assert before == (kms.describe(key), kms.keys(), kms.aliases())


def test_what_does_not_exist(kms):
    nobody = "11111111-2222-4333-8444-555555555555"
    for name in (nobody, "alias/nobody", "", "nothing", "x" * 3000, nobody.upper()):
        for call in (lambda: kms.describe(name), lambda: kms.enable(name), lambda: kms.encrypt(name, b"x"),
                     lambda: kms.import_parameters(name)):
            assert outcome(call) in ("KMS_R_NOT_FOUND", "CKR_ARGUMENTS_BAD"), name
    session = kms.session
    ordinary = session.generate(ck.CKM_AES_KEY_GEN, {ck.CKA_VALUE_LEN: 32, ck.CKA_TOKEN: True, ck.CKA_ID: nobody.encode()})
    with refused("KMS_R_NOT_FOUND"):
        kms.describe(nobody)
    session.destroy(ordinary)
