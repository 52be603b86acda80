"""A reading of envelopes with other code, given the key material, checked against tests/vectors/envelope."""

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode
from peer.cose import A256GCM, ALG, COMMITMENT, CONTENT_TYPE, ENCRYPT0, KID, SALT, message
from peer.encoding import Refused, bstr, decode, encode, mapped, octets, require, uint
from peer.keys import hkdf

DIRECTORY = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "envelope"
VERSION = -65539


def vectors(name):
    return [pytest.param(v, id=f"{name}-{n}") for n, v in enumerate(json.loads((DIRECTORY / name).read_text()))]


def unhex(vector, *names):
    return [bytes.fromhex(vector[name]) for name in names]


def derive(material, salt, object_id, version):
    """Key, IV and commitment."""
    kdf = KBKDFHMAC(
        hashes.SHA256(), Mode.CounterMode, length=76, rlen=4, llen=4, location=CounterLocation.BeforeFixed,
        label=b"conclave/1 envelope", context=salt + object_id + version.to_bytes(8, "big"), fixed=None,
    )
    keys = kdf.derive(material)
    return keys[:32], keys[32:44], keys[44:]


def name_of(blob):
    """The key's object id and version, which anyone can read."""
    header, _, _ = message(blob, ENCRYPT0, {KID, SALT, COMMITMENT, VERSION})
    return octets(16)(header[KID]), uint(header[VERSION])


def open_envelope(blob, material, key_id, object_id, version, context):
    header, protected, (ciphertext,) = message(blob, ENCRYPT0, {KID, SALT, COMMITMENT, VERSION})
    require(header[ALG] == A256GCM and header[CONTENT_TYPE] == "application/vnd.conclave.envelope", "not an envelope")
    require((header[KID], header[VERSION]) == (object_id, version), "of another key or version")
    require(16 <= len(bstr(ciphertext)) <= 4096 + 16, "too short or too long")
    key, iv, commitment = derive(material, octets(32)(header[SALT]), object_id, version)
    require(hmac.compare_digest(commitment, octets(32)(header[COMMITMENT])), "another key was committed to")
    aad = encode(["Encrypt0", protected, encode([key_id, context])])
    try:
        return AESGCM(key).decrypt(iv, ciphertext, aad)
    except InvalidTag:
        raise Refused("it does not verify") from None


def arguments(vector):
    material, object_id = unhex(vector, "material", "object")
    return material, vector["key_id"], object_id, vector["version"], dict(vector["context"])


@pytest.mark.parametrize("vector", vectors("envelope.json"))
def test_envelopes(vector):
    blob, salt, plaintext, context = unhex(vector, "blob", "salt", "plaintext", "context_encoded")
    material, key_id, object_id, version, pairs = arguments(vector)
    assert encode(pairs) == context and len(pairs) == len(vector["context"])
    assert decode(context, mapped(str, str)) == pairs
    assert vector["key_id"].replace("-", "").removeprefix("mrk") == vector["object"]
    assert name_of(blob) == (object_id, version)
    assert open_envelope(blob, *arguments(vector)) == plaintext

    # Made again, byte for byte.
    key, iv, commitment = derive(material, salt, object_id, version)
    protected = encode({ALG: A256GCM, CONTENT_TYPE: "application/vnd.conclave.envelope", KID: object_id, SALT: salt,
                        COMMITMENT: commitment, VERSION: version})
    ciphertext = AESGCM(key).encrypt(iv, plaintext, encode(["Encrypt0", protected, encode([key_id, pairs])]))
    assert blob == b"\xd0\x83" + encode(protected) + b"\xa0" + encode(ciphertext)


@pytest.mark.parametrize("vector", vectors("envelope.json")[:2])
def test_changed_envelopes_are_refused(vector):
    (blob,) = unhex(vector, "blob")
    material, key_id, object_id, version, context = arguments(vector)
    for at in range(len(blob)):
        changed = bytearray(blob)
        changed[at] ^= 1 << at % 8
        with pytest.raises(Refused):
            open_envelope(bytes(changed), *arguments(vector))
    for other in [
        (bytes(32), key_id, object_id, version, context),
        (material, "mrk-0", object_id, version, context),
        (material, key_id, bytes(16), version, context),
        (material, key_id, object_id, version + 1, context),
        (material, key_id, object_id, version, {**context, "more": ""}),
    ]:
        with pytest.raises(Refused):
            open_envelope(blob, *other)


@pytest.mark.parametrize("vector", vectors("material-commitment.json"))
def test_material_commitments(vector):
    index_key, object_id, material, commitment = unhex(vector, "index_key", "object", "material", "commitment")
    key = hkdf(index_key, 32, ["material commitment"])
    assert hmac.new(key, encode([object_id, material]), hashlib.sha256).digest() == commitment
