"""C_WrapKeyAuthenticated and C_UnwrapKeyAuthenticated against other code, in both directions."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (Encoding, NoEncryption, PrivateFormat, PublicFormat,
                                                          load_der_private_key)
from cryptoki import Error, Mechanism, ck, gcm_message, gcm_wrap
from managed import open_kms, refused
from material import wrap as wrap_material
from peer.cose import COMMITMENT, ENCRYPT0, KID, SALT, message
from test_wrap_vectors import VERSION, cbor, open_wrapped_key
from vectors import wycheproof

OPEN = {ck.CKA_TOKEN: False, ck.CKA_PRIVATE: False, ck.CKA_SENSITIVE: False, ck.CKA_EXTRACTABLE: True}
AAD = "Kunde 7, für immer".encode()


def imported(session, kind, value, **more):
    return session.create({**OPEN, ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: kind, ck.CKA_VALUE: value,
                           **{getattr(ck, f"CKA_{name}"): flag for name, flag in more.items()}})


def wrapper(session, value):
    """An AES key that is known, and also decrypts, so that what it unwraps may be read."""
    return imported(session, ck.CKK_AES, value, WRAP=True, UNWRAP=True, DECRYPT=True)


def wrap(session, kek, key, aad=AAD, generator=ck.CKG_GENERATE):
    """(IV, wrapped key, tag)"""
    mechanism = gcm_message(bytes(12), generator=generator)
    wrapped = session.wrap_authenticated(mechanism, kek, key, aad)
    return mechanism.alive[0].raw[:12], wrapped, mechanism.alive[1].raw[:16]


def test_wycheproof(session):
    """Each plaintext is a secret's value."""
    template = {**OPEN, ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_GENERIC_SECRET}
    ran = 0
    for group, test in wycheproof("aes_gcm"):
        if not test["msg"] or not test["iv"]:
            continue
        ran += 1
        kek = wrapper(session, test["key"])
        if test["result"] == "valid":
            key = imported(session, ck.CKK_GENERIC_SECRET, test["msg"])
            mechanism = gcm_message(test["iv"], bytes(group["tagSize"] // 8))
            assert session.wrap_authenticated(mechanism, kek, key, test["aad"]) == test["ct"], test["tcId"]
            assert mechanism.alive[1].raw[:group["tagSize"] // 8] == test["tag"], test["tcId"]
            mechanism = gcm_message(test["iv"], test["tag"])
            back = session.unwrap_authenticated(mechanism, kek, test["ct"], template, test["aad"])
            assert session.get(back, ck.CKA_VALUE) == test["msg"], test["tcId"]
            session.destroy(key)
            session.destroy(back)
        else:
            with pytest.raises(Error) as error:
                session.unwrap_authenticated(gcm_message(test["iv"], test["tag"]), kek, test["ct"], template,
                                             test["aad"])
            assert error.value.rv == ck.CKR_WRAPPED_KEY_INVALID, test["tcId"]
        session.destroy(kek)
    assert ran > 200


@pytest.mark.parametrize("size", [16, 24, 32])
def test_secret_keys_both_ways(session, size):
    kek_value, value = bytes(range(size)), bytes(range(100, 132))
    kek = wrapper(session, kek_value)
    iv, wrapped, tag = wrap(session, kek, imported(session, ck.CKK_AES, value))
    assert any(iv) and AESGCM(kek_value).decrypt(iv, wrapped + tag, AAD) == value

    sealed = AESGCM(kek_value).encrypt(b"twelve bytes", value, AAD)
    back = session.unwrap_authenticated(
        gcm_message(b"twelve bytes", sealed[-16:]), kek, sealed[:-16],
        {**OPEN, ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES}, AAD)
    assert session.get(back, ck.CKA_VALUE) == value
    for kind in (ck.CKA_LOCAL, ck.CKA_ALWAYS_SENSITIVE, ck.CKA_NEVER_EXTRACTABLE):
        assert session.get(back, kind) == b"\0"


@pytest.mark.parametrize("made", [lambda: rsa.generate_private_key(65537, 2048),
                                  lambda: ec.generate_private_key(ec.SECP384R1())], ids=["RSA", "EC"])
def test_private_keys_both_ways(session, made):
    key, kek_value = made(), bytes(range(32))
    kek = wrapper(session, kek_value)
    pkcs8 = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    sealed = AESGCM(kek_value).encrypt(b"twelve bytes", pkcs8, None)
    kind = ck.CKK_RSA if isinstance(key, rsa.RSAPrivateKey) else ck.CKK_EC
    inside = session.unwrap_authenticated(gcm_message(b"twelve bytes", sealed[-16:]), kek, sealed[:-16],
                                          {**OPEN, ck.CKA_CLASS: ck.CKO_PRIVATE_KEY, ck.CKA_KEY_TYPE: kind})
    iv, wrapped, tag = wrap(session, kek, inside)
    again = load_der_private_key(AESGCM(kek_value).decrypt(iv, wrapped + tag, AAD), None)
    info = [k.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for k in (key, again)]
    assert info[0] == info[1] == session.get(inside, ck.CKA_PUBLIC_KEY_INFO)


def test_wrap_key_makes_an_iv_too(session):
    """CK_GCM_WRAP_PARAMS of C_WrapKey, with the AAD in the parameter and the tag at the end."""
    kek_value, value = bytes(range(32)), bytes(range(50, 82))
    kek, key = wrapper(session, kek_value), imported(session, ck.CKK_AES, value)
    mechanism = gcm_wrap(b"\xc0\xff\xee\x12" + bytes(12), AAD, ck.CKG_GENERATE, 28)
    wrapped = session.wrap(mechanism, kek, key)
    iv = mechanism.alive[0].raw[:16]
    assert iv[:3] == b"\xc0\xff\xee" and iv[3] >> 4 == 1
    assert AESGCM(kek_value).decrypt(iv, wrapped, AAD) == value
    sealed = AESGCM(kek_value).encrypt(iv, value, AAD)
    assert sealed == wrapped
    back = session.unwrap(gcm_wrap(iv, AAD, ck.CKG_NO_GENERATE), kek, sealed,
                          {**OPEN, ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES})
    assert session.get(back, ck.CKA_VALUE) == value


# CKM_KMS_WRAP

TRAVELLER = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_TOKEN: False, ck.CKA_EXTRACTABLE: True, ck.CKA_VALUE_LEN: 32,
             ck.CKA_LABEL: "traveller", ck.CKA_ID: b"\x07\x08", ck.CKA_ENCRYPT: True, ck.CKA_DECRYPT: True,
             ck.CKA_DERIVE: False, ck.CKA_ALLOWED_MECHANISMS: [ck.CKM_AES_GCM, ck.CKM_AES_ECB]}
KMS_CONTEXT = b'{"purpose": "backup", "site": "Z\xc3\xbcrich"}'


def kms_wrap(context=KMS_CONTEXT):
    return Mechanism(ck.CKM_KMS_WRAP, context)


@pytest.fixture(scope="module")
def kms(module):
    return open_kms(module, "wrapping")


def managed_key(kms, **members):
    """(id, handle)"""
    id_ = kms.create("AES_256", **members)
    (handle,) = kms.session.find({ck.CKA_ID: id_.encode(), ck.CKA_CLASS: ck.CKO_SECRET_KEY})
    return id_, handle


@pytest.fixture(scope="module")
def wrapping(kms):
    return managed_key(kms)


def fingerprint(session, key):
    return session.encrypt(ck.CKM_AES_ECB, key, bytes(16))


def test_attributes_travel(kms, wrapping):
    session, (_, kek) = kms.session, wrapping
    key = session.generate(ck.CKM_AES_KEY_GEN, TRAVELLER)
    wrapped = session.wrap_authenticated(kms_wrap(), kek, key, AAD)
    back = session.unwrap_authenticated(kms_wrap(b'{"site":"Z\\u00fcrich","purpose":"backup"}'), kek, wrapped, {}, AAD)
    assert fingerprint(session, back) == fingerprint(session, key)
    for kind in (ck.CKA_LABEL, ck.CKA_ID, ck.CKA_KEY_TYPE, ck.CKA_SENSITIVE, ck.CKA_EXTRACTABLE, ck.CKA_ENCRYPT,
                 ck.CKA_DERIVE, ck.CKA_ALLOWED_MECHANISMS, ck.CKA_PRIVATE, ck.CKA_SIGN, ck.CKA_WRAP):
        assert session.get(back, kind) == session.get(key, kind), hex(kind)
    for kind in (ck.CKA_LOCAL, ck.CKA_ALWAYS_SENSITIVE, ck.CKA_NEVER_EXTRACTABLE):
        assert session.get(back, kind) == b"\0"
    assert session.wrap_authenticated(kms_wrap(), kek, key, AAD) != wrapped


def test_private_keys_travel(kms, wrapping):
    session, (_, kek) = kms.session, wrapping
    public, private = session.generate_pair(
        ck.CKM_EC_KEY_PAIR_GEN,
        {ck.CKA_TOKEN: False, ck.CKA_EC_PARAMS: bytes.fromhex("06082a8648ce3d030107"), ck.CKA_VERIFY: True},
        {ck.CKA_TOKEN: False, ck.CKA_EXTRACTABLE: True, ck.CKA_SIGN: True, ck.CKA_SUBJECT: b"0\0"})
    wrapped = session.wrap_authenticated(kms_wrap(), kek, private)
    back = session.unwrap_authenticated(kms_wrap(), kek, wrapped, {ck.CKA_LABEL: "back", ck.CKA_EXTRACTABLE: False})
    assert session.verify(ck.CKM_ECDSA, public, bytes(32), session.sign(ck.CKM_ECDSA, back, bytes(32)))
    assert session.get(back, ck.CKA_SUBJECT) == b"0\0" and session.get(back, ck.CKA_EXTRACTABLE) == b"\0"
    assert session.get(back, ck.CKA_PUBLIC_KEY_INFO) == session.get(private, ck.CKA_PUBLIC_KEY_INFO)


def test_nothing_else_opens_it(kms, wrapping):
    session, (id_, kek) = kms.session, wrapping
    key = session.generate(ck.CKM_AES_KEY_GEN, TRAVELLER)
    wrapped = session.wrap_authenticated(kms_wrap(), kek, key, AAD)
    for context, aad, blob, by in [
        (b"", AAD, wrapped, kek), (b'{"purpose": "backup"}', AAD, wrapped, kek), (KMS_CONTEXT, b"", wrapped, kek),
        (KMS_CONTEXT, AAD + b"x", wrapped, kek), (KMS_CONTEXT, AAD, wrapped[:-1], kek), (KMS_CONTEXT, AAD, b"", kek),
        (KMS_CONTEXT, AAD, wrapped[:-1] + bytes([wrapped[-1] ^ 1]), kek), (KMS_CONTEXT, AAD, wrapped, managed_key(kms)[1]),
        (KMS_CONTEXT, AAD, kms.encrypt(id_, b"an envelope", KMS_CONTEXT), kek),
    ]:
        with refused("CKR_WRAPPED_KEY_INVALID"):
            session.unwrap_authenticated(kms_wrap(context), by, blob, {}, aad)
    with refused("KMS_R_INVALID_CIPHERTEXT"):
        kms.decrypt(wrapped, KMS_CONTEXT, id_)
    with refused("CKR_MECHANISM_PARAM_INVALID"):
        session.wrap_authenticated(kms_wrap(b"[]"), kek, key)
    with refused("CKR_TEMPLATE_INCONSISTENT"):
        session.unwrap_authenticated(kms_wrap(), kek, wrapped, {ck.CKA_SENSITIVE: False}, AAD)
    with refused("CKR_KEY_UNEXTRACTABLE"):
        session.wrap_authenticated(kms_wrap(), kek, session.generate(ck.CKM_AES_KEY_GEN, {**TRAVELLER,
                                                                                        ck.CKA_EXTRACTABLE: False}))
    with refused("CKR_KEY_UNEXTRACTABLE"):
        session.wrap_authenticated(kms_wrap(), kek, managed_key(kms)[1])
    ordinary = session.generate(ck.CKM_AES_KEY_GEN, {ck.CKA_VALUE_LEN: 32, ck.CKA_WRAP: True})
    with refused("CKR_WRAPPING_KEY_TYPE_INCONSISTENT"):
        session.wrap_authenticated(kms_wrap(), ordinary, key)


def test_older_versions_unwrap_and_states_bind(kms):
    session, (id_, kek) = kms.session, managed_key(kms)
    key = session.generate(ck.CKM_AES_KEY_GEN, TRAVELLER)
    wrapped = []
    for _ in range(3):
        wrapped.append(session.wrap_authenticated(kms_wrap(), kek, key))
        kms.rotate(id_)
    for blob in wrapped:
        back = session.unwrap_authenticated(kms_wrap(), kek, blob, {ck.CKA_TOKEN: True})
        assert fingerprint(session, back) == fingerprint(session, key)
        session.destroy(back)
    kms.disable(id_)
    with refused("CKR_KEY_FUNCTION_NOT_PERMITTED"):
        session.unwrap_authenticated(kms_wrap(), kek, wrapped[0], {})
    with refused("CKR_KEY_FUNCTION_NOT_PERMITTED"):
        session.wrap_authenticated(kms_wrap(), kek, key)
    kms.enable(id_)
    session.unwrap_authenticated(kms_wrap(), kek, wrapped[0], {})


def test_managed_keys_wrap_in_no_other_way(kms):
    session, (_, kek) = kms.session, managed_key(kms, StandardMechanisms=True)
    key = session.generate(ck.CKM_AES_KEY_GEN, {**TRAVELLER, ck.CKA_SENSITIVE: False})
    for call in (lambda: wrap(session, kek, key), lambda: session.wrap(gcm_wrap(bytes(12), b"", ck.CKG_GENERATE), kek, key)):
        with refused("CKR_KEY_FUNCTION_NOT_PERMITTED"):
            call()
    assert session.unwrap(kms_wrap(), kek, session.wrap(kms_wrap(), kek, key), {})


def test_imported_material_wraps_nothing_sensitive(kms):
    """Whoever imported it can open what it wrapped."""
    session, (id_, kek) = kms.session, managed_key(kms, Origin="EXTERNAL")
    public_key, token, _ = kms.import_parameters(id_)
    kms.import_material(id_, token, wrap_material(public_key, bytes(range(32))))
    (kek,) = session.find({ck.CKA_ID: id_.encode(), ck.CKA_CLASS: ck.CKO_SECRET_KEY})
    with refused("CKR_KEY_NOT_WRAPPABLE"):
        session.wrap_authenticated(kms_wrap(), kek, session.generate(ck.CKM_AES_KEY_GEN, TRAVELLER))
    key = session.generate(ck.CKM_AES_KEY_GEN, {**TRAVELLER, ck.CKA_SENSITIVE: False})
    wrapped = session.wrap_authenticated(kms_wrap(), kek, key, AAD)
    (header, *_) = message(wrapped, ENCRYPT0, {KID, SALT, COMMITMENT, VERSION})
    context = {"purpose": "backup", "site": "Zürich"}
    content = open_wrapped_key(wrapped, bytes(range(32)), id_, header[KID], header[VERSION], context, AAD)
    attributes, value, _ = cbor(content)
    assert value == session.get(key, ck.CKA_VALUE) and attributes[ck.CKA_LABEL] == b"traveller"
