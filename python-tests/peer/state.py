"""The public state of a domain."""

import copy
from typing import NamedTuple

from .encoding import (
    ascending, decode, encode, fields, listed, mapped, octets, one_of, optional, record, require, row, text, uint,
)
from .keys import public, sha384

identifier, digest = octets(16), octets(48)
ACTIVE, DECRYPT_ONLY = 0, 1


class Member(NamedTuple):
    id: bytes
    signing: bytes
    agreement: bytes


class Recipient(NamedTuple):
    id: bytes
    agreement: bytes


class Operator(NamedTuple):
    id: bytes
    person: str
    roles: list
    signing: bytes
    agreement: bytes


class Host(NamedTuple):
    id: bytes
    name: str
    signing: bytes


class User(NamedTuple):
    """`role` is 0 for the SO, 1 for the user, 2 for a user with this name."""

    role: int
    name: str | None
    generation: int
    agreement: bytes | None
    enrolment: list | None


class DomainKey(NamedTuple):
    id: bytes
    status: int
    created: int
    retires: int | None
    region: str


class StandingOrder(NamedTuple):
    interval: int
    window: int
    retain: int | None
    until: int


class Limits(NamedTuple):
    session_key: int
    handshake: int
    login_ticket: int
    offer: int
    proposal: int
    approval: int


class RecoverySet(NamedTuple):
    id: bytes
    commitments: list
    ephemeral: bytes
    shares: list


def role(value):
    number, name = row(one_of(0, 1, 2), optional(text))(value)
    require((number == 2) == (name is not None), "a role is not one")
    return number, name


def _user(value):
    made = record(User, one_of(0, 1, 2), optional(text), uint, optional(public), optional(enrolment))(value)
    role([made.role, made.name])
    require(made.generation > 0, "generation 0")
    return made


member = record(Member, identifier, public, public)
enrolment = row(optional(digest), uint)
alternative = ascending(row(text, uint), least=1)
rule = row(text, listed(alternative))
standing_order = record(StandingOrder, uint, uint, optional(uint), uint)
trusted_region = row(text, identifier, listed(public))
limits = record(Limits, *[uint] * 6)
recovery_set = record(
    RecoverySet, identifier, listed(public, least=2), public, ascending(row(identifier, octets(64)), least=1)
)

_state = fields(
    domain=identifier,
    name=text,
    region=text,
    partition=text,
    serial=text,
    version=uint,
    previous=optional(digest),
    governance=digest,
    log_head=optional(digest),
    members=ascending(member, least=1),
    recipients=ascending(record(Recipient, identifier, public)),
    operators=ascending(record(Operator, identifier, text, ascending(text, str.encode, least=1), public, public)),
    hosts=ascending(record(Host, identifier, text, public)),
    users=ascending(_user, lambda user: (user.role, (user.name or "").encode())),
    rules=ascending(rule, lambda each: each[0].encode()),
    domain_keys=ascending(record(DomainKey, identifier, one_of(0, 1), uint, optional(uint), text), least=1),
    index_key=identifier,
    replication_keys=listed(public, least=1),
    trusted_regions=ascending(trusted_region, lambda each: each[0].encode()),
    revoked=mapped(identifier, uint),
    nonces=mapped(identifier, uint),
    limits=limits,
    suites=ascending(uint, lambda each: each, least=1),
    changed=uint,
    standing_order=optional(standing_order),
    trusted_keys=ascending(identifier, lambda each: each),
    recovery=optional(recovery_set),
)


_EMBEDDED = 28


class State:
    """Its fields are attributes, named as the CDDL's comments do."""

    def __init__(self, encoded):
        read = decode(encoded)
        require(type(read) is dict, "a map was expected")
        alone = _EMBEDDED not in read
        embedded = optional(identifier)(read.pop(_EMBEDDED, None))
        vars(self).update(_state(read))
        self.embedded = self.members[0].id if alone else embedded
        require(self.alone() == alone, "the embedded member is not said, or said without need")
        self.check()

    def check(self):
        """What holds of every state."""
        require(self.governance == self.governed(), "the governance hash is wrong")
        require((self.version == 1) == (self.previous is None), "the hash of the state before is missing or too much")
        require(self.version > 0, "version 0")
        require([key.status for key in self.domain_keys].count(ACTIVE) == 1, "not exactly one domain key is active")
        recovery = self.recovery
        expected = [Recipient(recovery.id, recovery.commitments[0])] if recovery else []
        require(self.recipients == expected, "a recipient is not the recovery set's")
        require(self.embedded is None or self.embedded_member(), "the embedded member is not a member")

    def governed(self):
        """The governance hash."""
        return sha384(encode([self.operators, self.rules, self.trusted_regions, self.limits, self.suites]))

    def encode(self):
        said = dict(enumerate(vars(self).values(), 1))
        if self.alone():
            del said[_EMBEDDED]
        return encode(said)

    def alone(self):
        """Whether the embedded member is the only one."""
        return [member.id for member in self.members] == [self.embedded]

    def hash(self):
        return sha384(self.encode())

    def copy(self):
        return copy.deepcopy(self)

    def embedded_member(self):
        return next((member for member in self.members if member.id == self.embedded), None)

    def user(self, role):
        """The entry of a role (number, name), or None."""
        return next((user for user in self.users if (user.role, user.name) == tuple(role)), None)

    def keys(self):
        """Every public key that the domain knows, with repetitions."""
        keys = [key for member in self.members for key in member[1:]]
        keys += [key for operator in self.operators for key in operator[3:]]
        keys += [host.signing for host in self.hosts] + [recipient.agreement for recipient in self.recipients]
        keys += [user.agreement for user in self.users if user.agreement] + self.replication_keys
        return keys

    def recipient_keys(self):
        """Everybody's to whom the secrets are encrypted."""
        keys = [member.agreement for member in self.members] + [recipient.agreement for recipient in self.recipients]
        return keys + [user.agreement for user in self.users if user.agreement and self.embedded]
