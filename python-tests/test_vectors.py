"""The peer's reading of records, tokens and PINs, checked against tests/vectors/domain."""

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from peer.cose import A256GCM, ALG, COMMITMENT, CONTENT_TYPE, ENCRYPT0, HMAC_384, KID, MAC0, PARAMETERS, SALT, message
from peer.encoding import Refused, decode, encode
from peer.keys import hkdf, key_id, private_key, sha256, spki
from peer.token import Token

DIRECTORY = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "domain"


def vectors(name):
    """The vectors of a file, as parameters of a test."""
    return [pytest.param(v, id=f"{name}-{n}") for n, v in enumerate(json.loads((DIRECTORY / name).read_text()))]


def unhex(vector, *names):
    return [bytes.fromhex(vector[name]) for name in names]


def sealing_keys(key, salt, kind, domain):
    """Key, IV and commitment."""
    keys = hkdf(key, 76, [kind, domain], salt)
    return keys[:32], keys[32:44], keys[44:]


def record_aad(vector):
    (domain_key_id, object_id) = unhex(vector, "key_id", "object")
    return encode([domain_key_id, vector["region"], object_id, vector["generation"]])


@pytest.mark.parametrize("vector", vectors("sealing.json"))
def test_sealing(vector):
    kind = vector["kind"]
    domain, key, kid, salt, plaintext, sealed = unhex(
        vector, "domain", "domain_key", "key_id", "salt", "plaintext", "sealed"
    )
    assert key_id("domain key", key) == kid
    header, protected, (ciphertext,) = message(sealed, ENCRYPT0, {KID, SALT, COMMITMENT})
    encryption_key, iv, commitment = sealing_keys(key, salt, kind, domain)
    assert header == {
        ALG: A256GCM,
        CONTENT_TYPE: f"application/vnd.conclave.sealed.{kind}",
        KID: kid,
        SALT: salt,
        COMMITMENT: commitment,
    }
    aad = encode(["Encrypt0", protected, record_aad(vector)])
    assert AESGCM(encryption_key).encrypt(iv, plaintext, aad) == ciphertext


@pytest.mark.parametrize("vector", vectors("mac.json"))
def test_public_records(vector):
    kind = vector["kind"]
    domain, key, kid, clear, record = unhex(vector, "domain", "domain_key", "key_id", "clear", "record")
    header, protected, (payload, tag) = message(record, MAC0, {KID})
    assert header == {ALG: HMAC_384, CONTENT_TYPE: f"application/vnd.conclave.public.{kind}", KID: kid}
    assert payload == clear
    mac_key = hkdf(key, 48, ["mac", kind, domain])
    covered = encode(["MAC0", protected, record_aad(vector), clear])
    assert hmac.new(mac_key, covered, hashlib.sha384).digest() == tag


@pytest.mark.parametrize("vector", vectors("index-tag.json"))
def test_index_tags(vector):
    key, kid, value, tag = unhex(vector, "index_key", "key_id", "value", "tag")
    assert key_id("index key", key) == kid
    assert hmac.new(key, encode([vector["column"], value]), hashlib.sha256).digest()[:16] == tag


def open_under_pin(record, pin, kind):
    """Parameters and plaintext of what is sealed under a PIN; None for a wrong PIN."""
    header, protected, (ciphertext,) = message(record, ENCRYPT0, {SALT, COMMITMENT, PARAMETERS})
    assert header[ALG] == A256GCM and header[CONTENT_TYPE] == f"application/vnd.conclave.{kind}"
    parameters = decode(header[PARAMETERS])
    (cost,) = [value for value in parameters if isinstance(value, list)]
    memory, passes, lanes = cost
    salt = header[SALT]
    pin_key = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory).derive(pin)
    key, iv, commitment = sealing_keys(pin_key, salt, kind, parameters[0])
    if commitment != header[COMMITMENT]:
        return None
    return parameters, AESGCM(key).decrypt(iv, ciphertext, encode(["Encrypt0", protected, b""]))


def open_pin_record(record, pin, token):
    """The agreement key that the PIN unwraps; None for a wrong PIN."""
    opened = open_under_pin(record, pin, "pin-record")
    if opened is None:
        return None
    (domain, serial, role, name, generation, _, agreement, signer), scalar = opened
    assert (role, name, generation, agreement, None) in token.state.users
    assert (domain, serial, signer) == (token.state.domain, token.state.serial, token.exporter)
    unwrapped = private_key(scalar)
    assert spki(unwrapped) == agreement
    return unwrapped


@pytest.mark.parametrize("vector", vectors("domain-token.json"))
def test_domain_tokens_and_pin_records(vector):
    data, domain, expected_hash, secrets = unhex(vector, "token", "domain", "hash", "secrets")
    token = Token(data)
    assert (token.hash, token.state.domain, token.state.serial) == (expected_hash, domain, vector["serial"])
    assert token.state.version == vector["version"]
    assert len(vector["pins"]) == len(token.state.users)
    for pin in vector["pins"]:
        record, value, scalar = unhex(pin, "record", "pin", "agreement_private")
        key = open_pin_record(record, value, token)
        assert key is not None and key.private_numbers().private_value == int.from_bytes(scalar, "big")
        assert (pin["role"], pin["name"], pin["generation"], spki(key), None) in token.state.users
        assert token.open(key) == secrets
        assert open_pin_record(record, value + b"x", token) is None
    token.check_secrets(secrets)


def test_domain_tokens_chain():
    tokens = [Token(bytes.fromhex(v.values[0]["token"])) for v in vectors("domain-token.json")]
    assert [t.state.version for t in tokens] == [1, 2, 3]
    for before, after in zip(tokens, tokens[1:]):
        assert after.state.previous == before.hash
        assert after.exporter in [sha256(member.signing) for member in before.state.members]


def test_a_changed_token_is_refused():
    data = bytes.fromhex(vectors("domain-token.json")[0].values[0]["token"])
    for at in range(0, len(data), 11):
        changed = bytearray(data)
        changed[at] ^= 1
        # What notices it, the decoder, a check or the signature, is beside the point.
        with pytest.raises(Refused):
            Token(bytes(changed))
