"""The log: what each entry makes of the state, and the verification of a whole history."""

import time
from typing import NamedTuple

from .change import apply, rotate, set_user
from .command import Command
from .encoding import bstr, decode, encode, listed, one_of, optional, require, row, text, uint
from .keys import public, sha384
from .state import ACTIVE, DECRYPT_ONLY, User, identifier, recovery_set, role
from .token import Token

SKEW = 60
COMMAND, SET_PIN, ROTATE, RETIRE = 0, 1, 2, 3
_ENTRIES = {
    COMMAND: row(uint, uint, bstr, row(optional(identifier), optional(public), optional(recovery_set))),
    SET_PIN: row(uint, uint, one_of(0, 1, 2), optional(text), public, optional(bstr)),
    ROTATE: row(uint, uint, identifier),
    RETIRE: row(uint, uint, identifier),
}


class Step(NamedTuple):
    """An entry that was followed; `persons` are those who signed."""

    version: int
    at: int
    name: str
    persons: list
    hash: bytes
    command: Command | None


def enrolment_hash(domain, code):
    return sha384(encode(["enrolment", domain, code]))


def follow(old, entry, now=None):
    """Verifies an entry against a state; the next state and the step."""
    head = decode(entry)
    shape = _ENTRIES.get(head[0] if type(head) is list and head and type(head[0]) is int else None)
    require(shape, "an unknown entry")
    kind, at, *rest = shape(head)
    require(at >= old.changed, "the entry is dated before the state it changes")
    require(at <= (time.time() if now is None else now) + SKEW, "the entry is dated in the future")
    require(kind == COMMAND or old.log_head is not None, "the domain is not founded")
    command, signers = None, []
    if kind == COMMAND:
        command = Command(rest[0])
        signers = command.verify(old, at)
        state = apply(old, command.name, command.arguments, at, rest[1])
        state.nonces = {nonce: until for nonce, until in old.nonces.items() if until >= at}
        state.nonces[command.nonce] = command.not_after
    else:
        state = old.copy()
        {SET_PIN: _set_pin, ROTATE: _rotate, RETIRE: _retire}[kind](state, at, *rest)
    before = old.hash()
    state.log_head = sha384((old.log_head or before) + entry)
    state.version, state.previous, state.changed = old.version + 1, before, at
    name = command.name if command else {SET_PIN: "PIN set", ROTATE: "standing order", RETIRE: "retirement"}[kind]
    persons = sorted({operator.person for operator in signers})
    return state, Step(state.version, at, name, persons, state.hash(), command)


def _set_pin(state, at, number, name, agreement, code):
    held = state.user(role([number, name]))
    require(held, "no PIN may be set for this role")
    if held.enrolment:
        expected, until = held.enrolment
        require(at <= until, "the enrolment has ended")
        shown = None if code is None else enrolment_hash(state.domain, code)
        require(shown == expected, "the enrolment code is wrong")
    else:
        require(held.agreement and code is None, "no PIN may be set for this role")
    require(agreement not in state.keys(), "the key is in use already")
    set_user(state, User(number, name, held.generation + 1, agreement, None))


def _rotate(state, at, key):
    order = state.standing_order
    require(order and at <= order.until, "no standing order")
    (created,) = [each.created for each in state.domain_keys if each.status == ACTIVE]
    age = at - created
    require(age >= order.interval and age % order.interval <= order.window, "no rotation is due")
    rotate(state, key, at, order.retain)


def _retire(state, at, key):
    due = [k for k in state.domain_keys
           if k.id == key and k.status == DECRYPT_ONLY and k.retires is not None and k.retires <= at]
    require(due, "the domain key's deadline has not come")
    state.domain_keys.remove(due[0])


class History:
    """A domain's public file, verified: who approved what, from the SO's last state to the newest."""

    def __init__(self, data, now=None):
        origin, entries, newest = decode(data, row(bstr, listed(bstr), bstr))
        self.origin, self.newest = Token(origin), Token(newest)
        require(self.origin.state.log_head is None, "the history begins after the founding")
        before = state = self.origin.state
        self.steps, self.entries = [], entries
        for entry in entries:
            before = state
            state, step = follow(before, entry, now)
            self.steps.append(step)
        require(state.hash() == self.newest.hash, "the log does not lead to the newest token")
        # A recovery leaves no member of the state before: the HSM that it names signs.
        recovered = not {member.id for member in before.members} & {member.id for member in state.members}
        for where in (self.newest.state,) if recovered else (before, self.newest.state):
            require(self.newest.signer in [member.signing for member in where.members],
                    "the newest token's signer is not a member of the state before")
        self.state = self.newest.state
