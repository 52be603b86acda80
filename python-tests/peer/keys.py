"""P-384 keys, signatures with ESP384, hashes and key derivation."""

import functools
import hashlib

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .encoding import Refused, encode, octets, require


def sha256(data):
    return hashlib.sha256(data).digest()


def sha384(data):
    return hashlib.sha384(data).digest()


def hkdf(key, length, info, salt=None):
    return HKDF(hashes.SHA384(), length, salt, encode(info)).derive(key)


def key_id(label, key):
    return hkdf(key, 16, ["key id", label])


def new_key():
    return ec.generate_private_key(ec.SECP384R1())


def private_key(scalar):
    require(len(scalar) == 48, "a private key has 48 bytes")
    return ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP384R1())


def spki(key):
    """The public half, as it stands in messages."""
    return _spki(key.public_key())


def _spki(public):
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


@functools.lru_cache(maxsize=10_000)
def _load(public):
    try:
        key = serialization.load_der_public_key(public)
    except (ValueError, UnsupportedAlgorithm) as why:
        raise Refused(f"not a public key: {why}") from why
    require(isinstance(getattr(key, "curve", None), ec.SECP384R1) and _spki(key) == public, "not a P-384 public key")
    return key


def public(value):
    """The shape of a public key."""
    _load(octets(120)(value))
    return value


def sign(key, data):
    """ESP384 with the nonce of RFC 6979, so that everybody makes the same signature."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA384(), deterministic_signing=True)))
    return r.to_bytes(48, "big") + s.to_bytes(48, "big")


def verify(spki_, data, signature):
    """Refuses a signature that is not this key's over the data."""
    require(len(signature) == 96, "a signature has 96 bytes")
    r, s = (int.from_bytes(half, "big") for half in (signature[:48], signature[48:]))
    try:
        _load(spki_).verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise Refused("a signature does not verify") from None


def agree(key, peer):
    """The x-coordinate that both sides compute."""
    return key.exchange(ec.ECDH(), _load(peer))
