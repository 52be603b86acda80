"""Envelopes: what a managed key encrypts, given its material."""

import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

from .cose import A256GCM, ALG, COMMITMENT, CONTENT_TYPE, ENCRYPT0, KID, SALT, message
from .encoding import Refused, bstr, encode, octets, require, uint

VERSION = -65539
TYPE = "application/vnd.conclave.envelope"


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


def seal_envelope(plaintext, material, key_id, object_id, version, context, salt=None):
    salt = salt or os.urandom(32)
    key, iv, commitment = derive(material, salt, object_id, version)
    protected = encode({ALG: A256GCM, CONTENT_TYPE: TYPE, KID: object_id, SALT: salt, COMMITMENT: commitment,
                        VERSION: version})
    ciphertext = AESGCM(key).encrypt(iv, plaintext, encode(["Encrypt0", protected, encode([key_id, context])]))
    return b"\xd0\x83" + encode(protected) + b"\xa0" + encode(ciphertext)


def open_envelope(blob, material, key_id, object_id, version, context):
    header, protected, (ciphertext,) = message(blob, ENCRYPT0, {KID, SALT, COMMITMENT, VERSION})
    require(header[ALG] == A256GCM and header[CONTENT_TYPE] == TYPE, "not an envelope")
    require((header[KID], header[VERSION]) == (object_id, version), "of another key or version")
    require(16 <= len(bstr(ciphertext)) <= 4096 + 16, "too short or too long")
    key, iv, commitment = derive(material, octets(32)(header[SALT]), object_id, version)
    require(hmac.compare_digest(commitment, octets(32)(header[COMMITMENT])), "another key was committed to")
    aad = encode(["Encrypt0", protected, encode([key_id, context])])
    try:
        return AESGCM(key).decrypt(iv, ciphertext, aad)
    except InvalidTag:
        raise Refused("it does not verify") from None
