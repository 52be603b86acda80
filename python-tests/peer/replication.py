"""The messages by which a key crosses between two Regions, and what the two compute from them."""

import hashlib
import hmac
import os
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM1024PrivateKey, MLKEM1024PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from . import cose
from .cose import A256GCM, ALG, COMMITMENT, CONTENT_TYPE, ENCRYPT0, SALT
from .encoding import (
    Refused, boolean, bstr, decode, encode, listed, octets, one_of, optional, record, require, row, text, uint,
)
from .keys import agree, hkdf, public, sha256, sha384, verify

TYPE = "application/vnd.conclave.replication."
SEALED = "application/vnd.conclave.sealed.replica"
P384, P384_MLKEM = 1, 2
ENCAPSULATED = 1568


class Party(NamedTuple):
    region: str
    domain: bytes


identifier, digest = octets(16), octets(48)
party = record(Party, text, identifier)
_encapsulated = optional(octets(ENCAPSULATED))
_rotation = optional(row(uint, uint))


def _keys(*items):
    """What a message says of each key, by its id: at least one, and none twice."""
    def shape(value):
        rows = listed(row(text, *items), least=1)(value)
        require(len({each[0] for each in rows}) == len(rows), "a key appears twice")
        return rows
    return shape


class Details(NamedTuple):
    """What the new primary has to know."""

    incarnation: bytes
    version: int
    newest: int
    rotation: list | None
    replicas: list


_replica = row(party, identifier, uint, uint)
_details = record(Details, identifier, uint, uint, _rotation, listed(_replica))

_SUITE = one_of(P384, P384_MLKEM)
_ACTIVATION = {"keys": _keys(identifier, uint, uint)}
_DELETION = {"keys": _keys(identifier, uint)}
# What follows the two parties in each kind of message, in this order.
FIELDS = {
    "request": {"nonce": identifier, "not_after": uint, "keys": listed(text, least=1)},
    "offer": {"offer": identifier, "suite": _SUITE, "not_after": uint, "keys": _keys(uint), "rakb": public,
              "ek": _encapsulated},
    "shipment": {"offer": identifier, "offer_hash": digest, "suite": _SUITE, "raka": public, "ct": _encapsulated,
                 "keys": _keys(bstr)},
    "receipt": {"offer": identifier, "shipment_hash": digest,
                "keys": _keys(identifier, uint, uint, uint, digest)},
    "activate": _ACTIVATION,
    "activated": _ACTIVATION,
    "deleted": _DELETION,
    "forgotten": _DELETION,
    "handover": {"keys": _keys(identifier, uint, uint, party, optional(_details))},
    "taken": {"keys": _keys(identifier, uint)},
}


class Message:
    """A message as it came: `kind`, `sender`, `to`, the fields of its kind by name, and `data`, all its bytes."""

    def __init__(self, data):
        self.data = data
        head, *_ = cose.message(data, cose.SIGN1, {cose.KID})
        content_type = head[CONTENT_TYPE]
        require(type(content_type) is str and content_type.startswith(TYPE), "not a message of replication")
        self.kind = content_type.removeprefix(TYPE)
        require(self.kind in FIELDS, "an unknown kind of message")
        self.kid, self.payload, self._protected, self._signature = cose.signed1(data, content_type)
        self.fields = FIELDS[self.kind]
        self.sender, self.to, *values = decode(self.payload, row(party, party, *self.fields.values()))
        vars(self).update(zip(self.fields, values))
        if self.kind in ("offer", "shipment"):
            encapsulation = self.ek if self.kind == "offer" else self.ct
            require((encapsulation is not None) == (self.suite == P384_MLKEM), "the suite has other keys")

    @property
    def hash(self):
        return sha384(self.data)

    @property
    def key_ids(self):
        return [each if type(each) is str else each[0] for each in self.keys]

    def verify(self, replication_keys):
        """Refuses what none of these keys of the sender's Region signed."""
        signers = [key for key in replication_keys if sha256(key) == self.kid]
        require(signers, "an unknown replication key signed it")
        verify(signers[0], cose.to_sign1(self._protected, self.sender.domain, self.payload), self._signature)


def make(key, kind, sender, to, *values):
    """A message of this kind, signed with a replication key of the sender."""
    return sign(key, kind, sender.domain, encode([sender, to, *values]))


def sign(key, kind, domain, payload):
    return cose.sign1(key, TYPE + kind, domain, payload)


# Keys


class Ephemeral:
    """What B offers with: its agreement key, and for suite 2 its decapsulation key."""

    def __init__(self, key, suite):
        self.key, self.suite = key, suite
        self.decapsulation = MLKEM1024PrivateKey.generate() if suite == P384_MLKEM else None

    @property
    def ek(self):
        return self.decapsulation and self.decapsulation.public_key().public_bytes_raw()

    def agreed(self, shipment):
        """The input keying material."""
        shared = agree(self.key, shipment.raka)
        return shared + (self.decapsulation.decapsulate(shipment.ct) if self.decapsulation else b"")


def answered(key, offer):
    """What A does with its ephemeral key for an offer: (input keying material, ct)."""
    shared = agree(key, offer.rakb)
    if offer.ek is None:
        return shared, None
    secret, ciphertext = MLKEM1024PublicKey.from_public_bytes(offer.ek).encapsulate()
    return shared + secret, ciphertext


class Wrapping:
    """RWK and CK of one exchange, and what is done with them."""

    def __init__(self, agreed, suite, sender, to, kids, offer_hash, raka, ct):
        """`sender` ships; `kids` are those of its replication key and of the one that signed the offer."""
        self.sender = sender
        self.transcript = sha384(encode([suite, sender, to, *kids, offer_hash, raka, ct]))
        keys = hkdf(agreed, 64, ["conclave/1", "replication", suite, self.transcript])
        self.rwk, self.ck = keys[:32], keys[32:]

    def _aad(self, index, count, key_id):
        return encode([self.transcript, index, count, key_id])

    def _derive(self, salt):
        keys = hkdf(self.rwk, 76, ["replica", self.sender.domain], salt)
        return keys[:32], keys[32:44], keys[44:]

    def seal(self, index, count, key_id, plaintext, salt=None):
        salt = salt or os.urandom(32)
        key, iv, commitment = self._derive(salt)
        protected = encode({ALG: A256GCM, CONTENT_TYPE: SEALED, SALT: salt, COMMITMENT: commitment})
        aad = encode(["Encrypt0", protected, self._aad(index, count, key_id)])
        sealed = [protected, {}, AESGCM(key).encrypt(iv, plaintext, aad)]
        return b"\xd0\x83" + b"".join(encode(each) for each in sealed)

    def open(self, index, count, key_id, sealed):
        header, protected, (ciphertext,) = cose.message(sealed, ENCRYPT0, {SALT, COMMITMENT})
        require(header[ALG] == A256GCM and header[CONTENT_TYPE] == SEALED, "not a sealed replica")
        key, iv, commitment = self._derive(octets(32)(header[SALT]))
        require(hmac.compare_digest(commitment, octets(32)(header[COMMITMENT])), "another key was committed to")
        aad = encode(["Encrypt0", protected, self._aad(index, count, key_id)])
        try:
            return AESGCM(key).decrypt(iv, ciphertext, aad)
        except InvalidTag:
            raise Refused("a record does not verify") from None

    def commitment(self, key_id, object_id, versions):
        """Of `versions`, rows [version, created, material]."""
        digests = [[version, sha384(material)] for version, _, material in versions]
        return hmac.new(self.ck, encode([key_id, object_id, digests]), hashlib.sha384).digest()


# Records


class Record(NamedTuple):
    """One key as it travels; `versions` are rows [version, created, material]."""

    key_id: str
    object: bytes
    public_object: bytes | None
    spec: str
    usage: int
    origin: int
    standard_mechanisms: bool
    replicate_imported: bool
    label: bytes
    created: int
    term: int
    version: int
    newest: int
    rotated: int | None
    rotation: list | None
    valid_to: int | None
    digest: bytes | None
    versions: list


_record = record(
    Record, text, identifier, optional(identifier), text, uint, uint, boolean, boolean, bstr, uint,
    uint, uint, uint, optional(uint), _rotation, optional(uint), optional(digest), listed(row(uint, uint, bstr)),
)


def read_record(plaintext):
    made = decode(plaintext, _record)
    numbers = [version for version, _, _ in made.versions]
    require(made.term > 0 and 0 < made.version <= made.newest, "the versions are not those of a key")
    expected = list(range(made.newest - len(numbers) + 1, made.newest + 1))
    require(numbers == expected and (not numbers or numbers[0] > 0), "the versions have gaps")
    require(all(material for _, _, material in made.versions), "a version has no material")
    return made
