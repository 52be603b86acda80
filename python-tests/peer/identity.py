"""Proof of possession, and the keys of those who can give it."""

import os
from typing import NamedTuple

from . import cose
from .encoding import decode, encode, octets, one_of, optional, record, require, text
from .keys import new_key, public, sha256, spki, verify

CONTENT_TYPE = "application/vnd.conclave.identity"
OPERATOR, HOST, HSM = 0, 1, 2


class Identity(NamedTuple):
    party: int
    id: bytes
    name: str
    signing: bytes
    agreement: bytes | None


_identity = record(Identity, one_of(OPERATOR, HOST, HSM), octets(16), text, public, optional(public))


def claimed(data, domain, party):
    """The identity that a claim proves to this domain."""
    kid, payload, protected, signature = cose.signed1(data, CONTENT_TYPE)
    identity = decode(payload, _identity)
    require(kid == sha256(identity.signing), "the claim names another key than the one that signs")
    require((identity.agreement is None) == (identity.party == HOST), "a party has a key too many or too few")
    require(identity.party == party, "the claim is of another kind of party")
    verify(identity.signing, cose.to_sign1(protected, domain, payload), signature)
    return identity


class Party:
    """A person, host or HSM with keys of its own."""

    def __init__(self, name, roles=(), party=OPERATOR, id=None):
        self.name, self.roles, self.party = name, sorted(roles), party
        self.id = id or os.urandom(16)
        self.signing = new_key()
        self.agreement = None if party == HOST else new_key()

    @staticmethod
    def kid_of(public):
        return sha256(public)

    @property
    def kid(self):
        return self.kid_of(spki(self.signing))

    def identity(self):
        return Identity(self.party, self.id, self.name, spki(self.signing), self.agreement and spki(self.agreement))

    def claim(self, domain):
        return cose.sign1(self.signing, CONTENT_TYPE, domain, encode(self.identity()))

    def founder(self, domain):
        """As "found domain" and "add operator" name him."""
        return [self.claim(domain), self.roles]

    def rekeyed(self):
        """The same party with new keys."""
        return Party(self.name, self.roles, self.party, self.id)
