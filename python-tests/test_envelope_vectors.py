"""A reading of envelopes with other code, given the key material, checked against tests/vectors/envelope."""

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from peer.encoding import Refused, decode, encode, mapped
from peer.envelope import name_of, open_envelope, seal_envelope
from peer.keys import hkdf

DIRECTORY = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "envelope"


def vectors(name):
    return [pytest.param(v, id=f"{name}-{n}") for n, v in enumerate(json.loads((DIRECTORY / name).read_text()))]


def unhex(vector, *names):
    return [bytes.fromhex(vector[name]) for name in names]


def arguments(vector):
    material, object_id = unhex(vector, "material", "object")
    return material, vector["key_id"], object_id, vector["version"], dict(vector["context"])


@pytest.mark.parametrize("vector", vectors("envelope.json"))
def test_envelopes(vector):
    blob, salt, plaintext, context = unhex(vector, "blob", "salt", "plaintext", "context_encoded")
    _, _, object_id, version, pairs = arguments(vector)
    assert encode(pairs) == context and len(pairs) == len(vector["context"])
    assert decode(context, mapped(str, str)) == pairs
    assert vector["key_id"].replace("-", "").removeprefix("mrk") == vector["object"]
    assert name_of(blob) == (object_id, version)
    assert open_envelope(blob, *arguments(vector)) == plaintext

    # Made again, byte for byte.
    assert blob == seal_envelope(plaintext, *arguments(vector), salt=salt)


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
    assert hmac.new(key, encode([object_id, hashlib.sha384(material).digest()]), hashlib.sha256).digest() == commitment
