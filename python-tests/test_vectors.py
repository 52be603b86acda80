"""An independent reading of docs/protocols.md, checked against tests/vectors/domain.

Shares nothing with the module: `cbor2` encodes, `cryptography` computes.
"""

import hashlib
import hmac
import json
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

DIRECTORY = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "domain"
A256GCM, HMAC_384, ESP384 = 3, 6, -51
ALG, CONTENT_TYPE, KID, SALT, COMMITMENT, PARAMETERS = 1, 3, 4, -20, -65537, -65538
ENCRYPT0, MAC0, SIGN1, SIGN = 16, 17, 18, 98


def vectors(name):
    """The vectors of a file, as parameters of a test."""
    return [pytest.param(v, id=f"{name}-{n}") for n, v in enumerate(json.loads((DIRECTORY / name).read_text()))]


def unhex(vector, *names):
    return [bytes.fromhex(vector[name]) for name in names]


def encode(value):
    return cbor2.dumps(value, canonical=True)


def decode(data):
    """Decodes, and checks that this is the one encoding of the value."""
    value = cbor2.loads(data)
    assert encode(value) == data
    return value


def hkdf(key, length, info, salt=None):
    return HKDF(hashes.SHA384(), length, salt, encode(info)).derive(key)


def key_id(label, key):
    return hkdf(key, 16, ["key id", label])


def message(data, tag, names):
    """The protected header, its bytes and the rest of a COSE message with exactly these headers."""
    tagged = decode(data)
    assert tagged.tag == tag
    protected, unprotected, *rest = tagged.value
    header = decode(protected)
    assert not unprotected and set(header) == {ALG, CONTENT_TYPE, *names}
    return header, protected, list(rest)


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


def sha384(data):
    return hashlib.sha384(data).digest()


def sha256(data):
    return hashlib.sha256(data).digest()


def private_key(scalar):
    assert len(scalar) == 48
    return ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP384R1())


def spki(key):
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def verify(public, data, signature):
    key = serialization.load_der_public_key(public)
    assert isinstance(key.curve, ec.SECP384R1) and len(signature) == 96
    r, s = (int.from_bytes(half, "big") for half in (signature[:48], signature[48:]))
    key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA384()))


class Token:
    """A domain token, verified on first sight."""

    def __init__(self, data):
        header, protected, (payload, signature) = message(data, SIGN1, {KID})
        assert header[ALG] == ESP384 and header[CONTENT_TYPE] == "application/vnd.conclave.domain-token"
        self.exporter = header[KID]
        encoded, (self.suite, self.ephemeral, self.wrapped, self.ciphertext) = decode(payload)
        self.state, self.hash = decode(encoded), sha384(encoded)
        assert list(self.state) == list(range(1, 28))
        self.members = self.state[10]
        (signer,) = [qhsk for _, qhsk, _ in self.members if sha256(qhsk) == self.exporter]
        verify(signer, encode(["Signature1", protected, self.state[1], payload]), signature)
        self.check()

    def check(self):
        state = self.state
        governance = [state[12], state[15], state[19], state[22], state[23]]
        assert state[8] == sha384(encode(governance))
        assert (state[6] == 1) == (state[7] is None)
        assert [status for _, status, *_ in state[16]].count(0) == 1
        keys = [qhak for _, _, qhak in self.members] + [key for _, key in state[11]]
        keys += [key for _, _, _, key, _ in state[14] if key is not None]
        assert [kid for kid, _ in self.wrapped] == sorted(sha256(key) for key in keys)

    def open(self, key):
        """The encoded secrets, for the holder of a recipient's private key."""
        recipient = spki(key)
        kid = sha256(recipient)
        transcript = [self.state[1], self.state[3], self.state[6], self.hash]
        transcript += [self.exporter, kid, self.ephemeral, recipient]
        shared = key.exchange(ec.ECDH(), serialization.load_der_public_key(self.ephemeral))
        wrapping = hkdf(shared, 44, ["conclave/1", "domain-token", self.suite, sha384(encode(transcript))])
        content_key = AESGCM(wrapping[:32]).decrypt(wrapping[32:], dict(self.wrapped)[kid], None)
        content = hkdf(content_key, 44, ["conclave/1", "state-secrets", self.suite, self.hash])
        return AESGCM(content[:32]).decrypt(content[32:], self.ciphertext, None)

    def check_secrets(self, encoded):
        """That the secrets are those that the state commits to."""
        secrets = decode(encoded)
        assert list(secrets) == [1, 2, 3, 4]
        assert [key_id("domain key", key) for key in secrets[1]] == [entry[0] for entry in self.state[16]]
        assert key_id("index key", secrets[2]) == self.state[17]
        if secrets[3] is not None:
            own = [spki(private_key(scalar)) for scalar in secrets[3]]
            assert own in [[qhsk, qhak] for _, qhsk, qhak in self.members]
        assert [spki(private_key(scalar)) for scalar in secrets[4]] == self.state[18]


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
    assert [role, name, generation, agreement, None] in token.state[14]
    assert (domain, serial, signer) == (token.state[1], token.state[5], token.exporter)
    unwrapped = private_key(scalar)
    assert spki(unwrapped) == agreement
    return unwrapped


@pytest.mark.parametrize("vector", vectors("domain-token.json"))
def test_domain_tokens_and_pin_records(vector):
    data, domain, expected_hash, secrets = unhex(vector, "token", "domain", "hash", "secrets")
    token = Token(data)
    assert (token.hash, token.state[1], token.state[5]) == (expected_hash, domain, vector["serial"])
    assert token.state[6] == vector["version"]
    assert len(vector["pins"]) == len(token.state[14])
    for pin in vector["pins"]:
        record, value, scalar = unhex(pin, "record", "pin", "agreement_private")
        key = open_pin_record(record, value, token)
        assert key is not None and key.private_numbers().private_value == int.from_bytes(scalar, "big")
        assert [pin["role"], pin["name"], pin["generation"], spki(key), None] in token.state[14]
        assert token.open(key) == secrets
        assert open_pin_record(record, value + b"x", token) is None
    token.check_secrets(secrets)


def test_domain_tokens_chain():
    tokens = [Token(bytes.fromhex(v.values[0]["token"])) for v in vectors("domain-token.json")]
    assert [t.state[6] for t in tokens] == [1, 2, 3]
    for before, after in zip(tokens, tokens[1:]):
        assert after.state[7] == before.hash
        assert after.exporter in [sha256(qhsk) for _, qhsk, _ in before.members]


def test_a_changed_token_is_refused():
    data = bytes.fromhex(vectors("domain-token.json")[0].values[0]["token"])
    for at in range(0, len(data), 11):
        changed = bytearray(data)
        changed[at] ^= 1
        # What notices it, the decoder, a check or the signature, is beside the point.
        with pytest.raises(Exception):
            Token(bytes(changed))
