"""The module as a ctypes program sees it: the basics, and what only Python's view makes easy to check."""

import hashlib
import os
import sys

import pytest
from cryptography.hazmat.primitives import serialization

from conftest import MODULE, run
from cryptoki import Error, Mechanism, ck, gcm

P256 = bytes.fromhex("06082a8648ce3d030107")


def test_info(module, slot):
    info = module.info()
    assert info.manufacturerID.strip()
    token = module.token_info(slot)
    assert token.label.decode().rstrip() == "ctypes"
    assert len(token.serialNumber) == 16


def test_padded_strings_have_no_nul(module, slot):
    raw = bytes(module.token_info(slot))[:96]
    assert b"\0" not in raw


def test_ten_megabytes_in_parts(session):
    key = session.generate(ck.CKM_AES_KEY_GEN, {ck.CKA_VALUE_LEN: 32, ck.CKA_ENCRYPT: True, ck.CKA_DECRYPT: True})
    data = os.urandom(1 << 20) * 10
    iv = os.urandom(16)
    sealed = session.encrypt(Mechanism(ck.CKM_AES_CBC_PAD, iv), key, data, parts=1 << 18)
    assert len(sealed) == len(data) + 16
    opened = session.decrypt(Mechanism(ck.CKM_AES_CBC_PAD, iv), key, sealed, parts=100_001)
    assert hashlib.sha256(opened).digest() == hashlib.sha256(data).digest()


def test_both_sizes_of_gcm_params(session):
    """CK_GCM_PARAMS with and without ulIvBits (40 and 48 bytes)."""
    key = session.generate(ck.CKM_AES_KEY_GEN, {ck.CKA_VALUE_LEN: 16, ck.CKA_ENCRYPT: True, ck.CKA_DECRYPT: True})
    iv, aad = os.urandom(12), b"associated"
    short = Mechanism(ck.CKM_AES_GCM, [("pointer", iv), 12, ("pointer", aad), len(aad), 128])
    assert short.c.ulParameterLen == 40
    sealed = session.encrypt(short, key, b"the same")
    assert session.decrypt(gcm(iv, aad), key, sealed) == b"the same"


def test_public_key_info(session):
    """CKA_PUBLIC_KEY_INFO is there on both halves and is what other software reads."""
    public, private = session.generate_pair(ck.CKM_EC_KEY_PAIR_GEN, {ck.CKA_EC_PARAMS: P256}, {})
    info = session.get(private, ck.CKA_PUBLIC_KEY_INFO)
    assert info == session.get(public, ck.CKA_PUBLIC_KEY_INFO)
    key = serialization.load_der_public_key(info)
    point = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    assert session.get(public, ck.CKA_EC_POINT) == b"\x04\x41" + point
    assert session.get(private, ck.CKA_EC_POINT) == b"\x04\x41" + point


def test_default_id_links_the_halves(session):
    public, private = session.generate_pair(ck.CKM_RSA_PKCS_KEY_PAIR_GEN, {ck.CKA_MODULUS_BITS: 2048}, {})
    assert session.get(public, ck.CKA_ID) == session.get(private, ck.CKA_ID) != b""
    assert session.get(private, ck.CKA_MODULUS) == session.get(public, ck.CKA_MODULUS)
    session.set(private, {ck.CKA_ID: b"mine"})
    assert session.get(private, ck.CKA_ID) == b"mine"


def test_unique_ids(session):
    keys = [session.generate(ck.CKM_AES_KEY_GEN, {ck.CKA_VALUE_LEN: 16}) for _ in range(20)]
    ids = {session.get(key, ck.CKA_UNIQUE_ID) for key in keys}
    assert len(ids) == 20
    assert session.find({ck.CKA_UNIQUE_ID: session.get(keys[7], ck.CKA_UNIQUE_ID)}) == [keys[7]]
    with pytest.raises(Error):
        session.set(keys[0], {ck.CKA_UNIQUE_ID: b"another"})


def test_check_value(session):
    value = bytes(range(16))
    key = session.create({ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES, ck.CKA_VALUE: value,
                          ck.CKA_ENCRYPT: True})
    assert session.get(key, ck.CKA_CHECK_VALUE) == session.encrypt(ck.CKM_AES_ECB, key, bytes(16))[:3]


def test_certificates_and_data(session):
    der = bytes.fromhex("3003020101")
    certificate = session.create({
        ck.CKA_CLASS: ck.CKO_CERTIFICATE, ck.CKA_CERTIFICATE_TYPE: ck.CKC_X_509, ck.CKA_TOKEN: True,
        ck.CKA_SUBJECT: bytes.fromhex("3000"), ck.CKA_VALUE: der, ck.CKA_LABEL: "a certificate", ck.CKA_ID: b"c1"})
    assert session.find({ck.CKA_CLASS: ck.CKO_CERTIFICATE, ck.CKA_ID: b"c1"}) == [certificate]
    assert session.get(certificate, ck.CKA_VALUE) == der
    data = session.create({ck.CKA_CLASS: ck.CKO_DATA, ck.CKA_TOKEN: True, ck.CKA_PRIVATE: True,
                           ck.CKA_APPLICATION: "tests", ck.CKA_VALUE: b"x" * 100_000})
    assert session.get(data, ck.CKA_VALUE) == b"x" * 100_000
    session.destroy(certificate)
    session.destroy(data)


def test_find_among_many(session):
    keys = [session.create({ck.CKA_CLASS: ck.CKO_DATA, ck.CKA_TOKEN: True, ck.CKA_LABEL: f"many {i}",
                            ck.CKA_APPLICATION: "many"}) for i in range(200)]
    assert session.find({ck.CKA_LABEL: "many 150"}) == [keys[150]]
    assert sorted(session.find({ck.CKA_APPLICATION: "many"})) == sorted(keys)
    for key in keys:
        session.destroy(key)
    assert session.find({ck.CKA_APPLICATION: "many"}) == []


def test_mechanism_and_profile_objects(session, module, slot):
    """PKCS#11 3.x: what the token says of itself as objects, if it does, agrees with the functions."""
    for handle in session.find({ck.CKA_CLASS: ck.CKO_MECHANISM}):
        assert session.get_number(handle, ck.CKA_MECHANISM_TYPE) in module.mechanisms(slot)
    for handle in session.find({ck.CKA_CLASS: ck.CKO_PROFILE}):
        assert session.get_number(handle, ck.CKA_PROFILE_ID) > 0


def test_private_objects_are_hidden_before_login(module, slot, session):
    label = "hidden"
    session.generate(ck.CKM_AES_KEY_GEN, {ck.CKA_VALUE_LEN: 16, ck.CKA_TOKEN: True, ck.CKA_LABEL: label})
    assert len(session.find({ck.CKA_LABEL: label})) == 1
    # Another process that has not logged in.
    script = (f"import sys; sys.path.insert(0, {str(os.path.dirname(__file__))!r}); import cryptoki\n"
              f"m = cryptoki.Module({str(MODULE)!r}); m.initialize()\n"
              f"s = m.session({slot}); print(len(s.find({{cryptoki.ck.CKA_LABEL: {label!r}}})))")
    assert run(sys.executable, "-c", script).strip() == "0"


def test_labels_of_private_objects_are_not_in_the_files(session, home):
    """Whoever reads the database learns neither names nor values."""
    secret_name = "name-that-nobody-sees-71f3"
    session.create({ck.CKA_CLASS: ck.CKO_DATA, ck.CKA_TOKEN: True, ck.CKA_PRIVATE: True, ck.CKA_LABEL: secret_name,
                    ck.CKA_VALUE: b"value-that-nobody-sees-71f3"})
    value = b"key-that-nobody-sees-71f3-......"
    session.create({ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_GENERIC_SECRET, ck.CKA_TOKEN: True,
                    ck.CKA_PRIVATE: False, ck.CKA_VALUE: value, ck.CKA_LABEL: "open name 71f3"})
    everything = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert len(everything) > 1000
    for word in (secret_name.encode(), b"value-that-nobody-sees", value, b"9876-user"):
        assert word not in everything


def test_files_are_private(home, session):
    for path in [home / "data", *(home / "data").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
