"""The audit log: what each row says, and whether rows are whole."""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from . import cose
from .encoding import ascending, boolean, bstr, decode, encode, octets, one_of, optional, record, require, text, uint
from .keys import sha256, sha384, verify

CONTENT_TYPE = "application/vnd.conclave.audit-head"


def word(pattern):
    def shape(value):
        require(type(value) is str and re.fullmatch(pattern, value), "a name was expected")
        return value
    return shape


def first(value):
    return one_of(0)(value)


def later(value):
    require(uint(value) > 0, "the first record is an anchor")
    return value


def context(value):
    require(type(value) is dict, "a context was expected")
    require(all(type(each) is str for pair in value.items() for each in pair), "a context maps text to text")
    require(len(encode(value)) <= 8192, "a context is too long")
    return value


class Tip(NamedTuple):
    instance: bytes
    seq: int
    hash: bytes


class Anchor(NamedTuple):
    seq: int
    at: int
    instance: bytes
    domain: bytes
    state: bytes
    signer: bytes
    host: str
    seen: list


class Event(NamedTuple):
    seq: int
    at: int
    principal: str
    host: str
    action: str
    key: str | None
    target: str | None
    context: dict | None
    outcome: str
    previous: bytes


class Head(NamedTuple):
    instance: bytes
    seq: int
    previous: bytes
    at: int
    closed: bool


tip = record(Tip, octets(16), uint, octets(48))
anchor = record(Anchor, first, uint, octets(16), octets(16), octets(48), octets(32), text, ascending(tip))
key_name = word("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32}")
event = record(Event, later, uint, text, text, word("[A-Za-z0-9]{1,64}"), optional(key_name), optional(text),
               optional(context), word("[A-Z0-9_]{1,64}"), octets(48))
head = record(Head, octets(16), uint, octets(48), uint, boolean)


def parse(row):
    """An anchor or an event; or a head with the kid that signed it, what it signed, and the signature."""
    if row[:1] == b"\xd2":
        signer, payload, protected, signature = cose.signed1(row, CONTENT_TYPE)
        return decode(payload, head), signer, (protected, payload, octets(96)(bstr(signature)))
    shape = anchor if row[:1] == b"\x88" else event
    return decode(row, shape), None, None


def check_signature(domain, members, signer, signed):
    """Members are SubjectPublicKeyInfos."""
    protected, payload, signature = signed
    member = next((member for member in members if sha256(member) == signer), None)
    require(member is not None, "nobody who is known signed the head")
    verify(member, cose.to_sign1(protected, domain, payload), signature)


@dataclass
class Chain:
    signer: bytes
    host: str
    seq: int
    hash: bytes
    at: int
    closed: bool = False
    unsigned: int = 1
    moved: bool = True
    headed: bool = False
    passed: set = field(default_factory=set)


class Log:
    """Reads rows in the order in which they were stored; refuses the first that does not fit."""

    def __init__(self, domain, members):
        self.domain, self.members, self.chains = domain, members, {}

    def read(self, instance, row):
        parsed, signer, signed = parse(row)
        if isinstance(parsed, Anchor):
            self._begin(instance, parsed)
        else:
            chain = self.chains.get(instance)
            require(chain is not None, "the chain has no beginning")
            require(not chain.closed, "the chain was closed")
            require(parsed.previous == chain.hash, "the row does not follow the one before it")
            require(parsed.at >= chain.at, "the time goes back")
            if isinstance(parsed, Event):
                self._go_on(chain, parsed)
            else:
                require(parsed.instance == instance and parsed.seq == chain.seq, "the head is of something else")
                require(signer == chain.signer, "the head has another signer than the anchor names")
                check_signature(self.domain, self.members, signer, signed)
                chain.closed, chain.unsigned, chain.headed = parsed.closed, 0, True
        chain = self.chains[instance]
        chain.at, chain.hash, chain.moved = parsed.at, sha384(row), True
        chain.passed.add((chain.seq, chain.hash))

    def _begin(self, instance, found):
        require(found.instance == instance and found.domain == self.domain, "the anchor is of something else")
        require(instance not in self.chains, "the chain begins twice")
        moved = [Tip(other, chain.seq, chain.hash) for other, chain in sorted(self.chains.items()) if chain.moved]
        require(found.seen == moved, "the other chains are not what they were when this one began")
        for chain in self.chains.values():
            chain.moved = False
        self.chains[instance] = Chain(found.signer, found.host, 0, b"", found.at)

    @staticmethod
    def _go_on(chain, found):
        require(found.seq == chain.seq + 1, "a record is missing or out of order")
        require(chain.headed and chain.unsigned < 1000, "a head is missing")
        chain.seq += 1
        chain.unsigned += 1

    def finish(self, *kept):
        """The chains that are not closed, by instance. `kept` are heads that were kept elsewhere."""
        for row in kept:
            found, signer, signed = parse(row)
            check_signature(self.domain, self.members, signer, signed)
            chain = self.chains.get(found.instance)
            require(chain is not None, "the chain of a kept head is not there")
            require((found.seq, found.previous) in chain.passed, "the chain is not the one of a kept head, or shorter")
            require(not found.closed or found.seq == chain.seq, "the chain of a kept head goes on")
        require(all(chain.headed for chain in self.chains.values()), "a head is missing")
        return {instance: chain for instance, chain in self.chains.items() if not chain.closed}

