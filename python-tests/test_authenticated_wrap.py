"""C_WrapKeyAuthenticated and C_UnwrapKeyAuthenticated against other code, in both directions."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (Encoding, NoEncryption, PrivateFormat, PublicFormat,
                                                          load_der_private_key)
from cryptoki import Error, ck, gcm_message, gcm_wrap
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
            with pytest.raises(Error) as refused:
                session.unwrap_authenticated(gcm_message(test["iv"], test["tag"]), kek, test["ct"], template,
                                             test["aad"])
            assert refused.value.rv == ck.CKR_WRAPPED_KEY_INVALID, test["tcId"]
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
