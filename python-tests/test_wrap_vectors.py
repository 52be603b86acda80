"""A reading of wrapped keys with other code, given the key material, checked against tests/vectors/wrap."""

import hmac
import json
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode
from cryptoki import ck
from peer.cose import A256GCM, ALG, COMMITMENT, CONTENT_TYPE, ENCRYPT0, KID, SALT, message
from peer.encoding import Refused, bstr, encode, octets, require, uint

FILE = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "wrap" / "wrapped-key.json"
VERSION = -65539
TYPE = "application/vnd.conclave.wrapped-key"


def derive(material, salt, object_id, version):
    """Key, IV and commitment."""
    kdf = KBKDFHMAC(
        hashes.SHA256(), Mode.CounterMode, length=76, rlen=4, llen=4, location=CounterLocation.BeforeFixed,
        label=b"conclave/1 wrapped key", context=salt + object_id + version.to_bytes(8, "big"), fixed=None,
    )
    keys = kdf.derive(material)
    return keys[:32], keys[32:44], keys[44:]


def open_wrapped_key(wrapped, material, key_id, object_id, version, context, associated):
    """The content."""
    header, protected, (ciphertext,) = message(wrapped, ENCRYPT0, {KID, SALT, COMMITMENT, VERSION})
    require(header[ALG] == A256GCM and header[CONTENT_TYPE] == TYPE, "not a wrapped key")
    require((octets(16)(header[KID]), uint(header[VERSION])) == (object_id, version), "of another key or version")
    require(16 <= len(bstr(ciphertext)) <= 65536 + 16, "too short or too long")
    key, iv, commitment = derive(material, octets(32)(header[SALT]), object_id, version)
    require(hmac.compare_digest(commitment, octets(32)(header[COMMITMENT])), "another key was committed to")
    aad = encode(["Encrypt0", protected, encode([key_id, context, associated])])
    try:
        return AESGCM(key).decrypt(iv, ciphertext, aad)
    except InvalidTag:
        raise Refused("it does not verify") from None


def arguments(vector):
    unhex = lambda name: bytes.fromhex(vector[name])  # noqa: E731
    return [unhex("material"), vector["key_id"], unhex("object"), vector["version"], dict(vector["context"]),
            unhex("associated")]


@pytest.mark.parametrize("vector", json.loads(FILE.read_text()))
def test_wrapped_keys(vector):
    wrapped, content, value, salt = (bytes.fromhex(vector[n]) for n in ("wrapped", "content", "value", "salt"))
    material, key_id, object_id, version, context, associated = arguments(vector)
    assert open_wrapped_key(wrapped, *arguments(vector)) == content

    # Made again, byte for byte.
    key, iv, commitment = derive(material, salt, object_id, version)
    protected = encode({ALG: A256GCM, CONTENT_TYPE: TYPE, KID: object_id, SALT: salt, COMMITMENT: commitment,
                        VERSION: version})
    aad = encode(["Encrypt0", protected, encode([key_id, context, associated])])
    assert wrapped == b"\xd0\x83" + encode(protected) + b"\xa0" + encode(AESGCM(key).encrypt(iv, content, aad))

    attributes, inside, marks = cbor(content)
    assert inside == value and marks & 1 == 0 and encode([attributes, inside, marks]) == content
    assert (attributes[ck.CKA_CLASS], attributes[ck.CKA_KEY_TYPE]) == (ck.CKO_SECRET_KEY, ck.CKK_AES)
    assert attributes[ck.CKA_LABEL] == b"traveller" and attributes[ck.CKA_EXTRACTABLE] is True
    for kind in (ck.CKA_TOKEN, ck.CKA_LOCAL, ck.CKA_ALWAYS_SENSITIVE, ck.CKA_NEVER_EXTRACTABLE, ck.CKA_TRUSTED,
                 ck.CKA_UNIQUE_ID, ck.CKA_VALUE):
        assert kind not in attributes


@pytest.mark.parametrize("at", range(6))
def test_another_name_is_refused(at):
    vector = json.loads(FILE.read_text())[1]
    wrapped, named = bytes.fromhex(vector["wrapped"]), arguments(vector)
    named[at] = [bytes(32), "mrk-0", bytes(16), 99, {"a": "b"}, b"other"][at]
    with pytest.raises(Refused):
        open_wrapped_key(wrapped, *named)


def cbor(data):
    """Any item that a content has."""
    item, rest = _item(data)
    require(not rest, "bytes after the end")
    return item


def _item(data):
    major, small = data[0] >> 5, data[0] & 31
    if major == 7:
        return {20: False, 21: True}[small], data[1:]
    extra = {24: 1, 25: 2, 26: 4, 27: 8}.get(small, 0)
    number = int.from_bytes(data[1:1 + extra], "big") if extra else small
    rest = data[1 + extra:]
    if major == 0:
        return number, rest
    if major == 2:
        return rest[:number], rest[number:]
    items = []
    for _ in range(number * (2 if major == 5 else 1)):
        item, rest = _item(rest)
        items.append(item)
    return (dict(zip(items[::2], items[1::2])) if major == 5 else items), rest
