"""Random commands: the module accepts exactly what the peer accepts, and both make the same of it."""

import os
import random
import time

from ceremony import DAY, Ceremony
from conftest import FLEET
from cryptoki import Error
from peer.change import apply, needs
from peer.command import HOUR, Command
from peer.encoding import Refused
from peer.identity import HOST, HSM, Party
from peer.keys import new_key, spki
from peer.rules import DEFAULTS, MAJORITY
from peer.state import RecoverySet

STEPS = int(os.environ.get("CONCLAVE_RANDOM_COMMANDS", "100" if FLEET else "300"))
ROLES = ["auditor", "officer", "operator"]


class Walk:
    """A domain that takes whatever its operators come up with."""

    def __init__(self, token, chance):
        self.token, self.chance = token, chance
        # Everybody who was ever an operator, and hosts.
        self.people, self.hosts = list(token.people), []
        self.keys = [bytes([n]) * 16 for n in range(3)]
        self.accepted = set()

    def step(self):
        state, chance = self.token.state, self.chance
        # Those about multi-Region keys need such keys, of which the peer knows nothing.
        name = chance.choice([*sorted(DEFAULTS.keys() - {"emergency promote", "give up replica"}), "found domain"])
        arguments = self.arguments(name, state)
        command = Command.of(state, name, *arguments, not_before=int(time.time()) - chance.choice([0, 0, 0, 0, HOUR + 9]))
        held = [person for person in self.people if person.kid in self.kids(state)]
        signers = held if chance.random() < 0.6 else chance.sample(self.people, chance.randint(0, len(self.people)))
        command.sign(*[person.signing for person in signers])
        expected = self.predict(state, command)
        try:
            self.token.domain.execute(command.encode())
            refusal = None
        except Error as error:
            refusal = str(error)
        assert (refusal is None) == (expected is None), f"{name} {arguments}: peer {expected}, module {refusal}"
        if refusal is None:
            self.token.check_step(state)
            self.accepted.add(name)
        else:
            assert self.token.state.encode() == state.encode()

    @staticmethod
    def kids(state):
        return {Party.kid_of(operator.signing) for operator in state.operators}

    @staticmethod
    def predict(state, command):
        """Why the peer refuses a command; None if it does not."""
        at = max(int(time.time()), state.changed)
        if command.name == "recover domain":
            return "not to be executed like that"
        if command.name == "expel HSM" and command.arguments[0] == state.embedded and len(state.members) > 1:
            return "an HSM does not carry out its own expulsion"
        try:
            command.verify(state, at)
            domain_key, replication_key, sharing = needs(state, command.name, command.arguments)
            recovery = None
            if sharing:
                public = spki(new_key())
                shares = [[holder, bytes(64)] for holder in sharing[1]]
                recovery = RecoverySet(bytes(16), [public] * sharing[0], public, shares)
            results = (os.urandom(16) if domain_key else None, spki(new_key()) if replication_key else None, recovery)
            apply(state, command.name, command.arguments, at, results)
        except Refused as refused:
            return str(refused)
        return None

    def some(self, *values):
        return self.chance.choice(values)

    def operator(self, state):
        """An operator's id, or nobody's."""
        return self.some(*[each.id for each in state.operators], bytes(16))

    def new_operator(self):
        """A person, perhaps one who is known, with keys of his own."""
        name = self.some("Anna", "Ben", "Dora", "Emil", "")
        person = Party(name, self.chance.sample(ROLES, self.chance.randint(0, 3)))
        if self.chance.random() < 0.2:
            person.agreement = self.chance.choice(self.people).signing
        self.people.append(person)
        return person

    def rule(self):
        def alternative():
            return [[role, self.some(MAJORITY, 1, 1, 2, 3, 300)] for role in ROLES if self.chance.random() < 0.5] or [
                ["officer", 1]]

        return [self.some(*DEFAULTS, "found domain"), [alternative() for _ in range(self.chance.randint(0, 3))]]

    def enrolment(self, now):
        return [self.some(None, b"h" * 48), now + self.some(DAY, HOUR, -HOUR, 31 * DAY)]

    def arguments(self, name, state):
        now, domain = int(time.time()), state.domain
        role = self.some([0, None], [1, None], [2, "otto"], [2, "emma"], [2, ""])
        retain = self.some(None, DAY, 90 * DAY, (1 << 64) - 1)
        if name == "add operator":
            person = self.new_operator()
            return [person.claim(self.some(domain, domain, domain, bytes(16))), person.roles]
        if name == "re-key operator":
            old = self.some(*self.people)
            person = Party(self.some(old.name, old.name, old.name, "Eve"), old.roles, id=old.id)
            self.people.append(person)
            return [person.claim(domain)]
        if name in ("admit host", "admit HSM"):
            party = Party("web", party=HOST if name == "admit host" else self.some(HOST, HSM))
            self.hosts.append(party.id)
            return [party.claim(domain)]
        return {
            "found domain": lambda: self.token.founding(),
            "remove operator": lambda: [self.operator(state)],
            "set rule": lambda: [self.rule()],
            "expel HSM": lambda: [self.some(*[member.id for member in state.members], bytes(16)), retain],
            "expel host": lambda: [self.some(*self.hosts, bytes(16))],
            "create user": lambda: [*role, self.enrolment(now)],
            # The SO's PIN is needed to go on.
            "reset PIN": lambda: [*(role if role[0] else [1, None]), self.enrolment(now)],
            "remove user": lambda: role,
            "rotate domain key": lambda: [retain],
            "schedule retirement": lambda: [
                self.some(*[key.id for key in state.domain_keys], bytes(16)), self.some(None, now + 9 * DAY, now - DAY)],
            "rotate RSK": lambda: [],
            "standing order": lambda: [self.some(None, [30 * DAY, DAY, retain, now + DAY], [DAY, DAY, None, now + DAY],
                                                 [0, 0, None, now + DAY], [DAY, 0, None, now])],
            "set limits": lambda: [[self.some(60, HOUR), 60, 900, self.some(0, 600, 400 * DAY), self.some(HOUR, 59 * 60),
                                    DAY]],
            "allow suite": lambda: [self.some(0, 1, 2, 3), self.some(True, False)],
            "trust Region": lambda: [[self.some("us-west", state.region, ""), self.some(b"r" * 16, domain),
                                      self.some([], [spki(self.people[0].signing)])]],
            "distrust Region": lambda: [self.some("us-west", "eu-west")],
            "trust key": lambda: [self.some(*self.keys), self.some(True, False)],
            "revoke key": lambda: [self.some(*self.keys), self.some(0, 1, 2, 9)],
            "make recovery set": lambda: [
                self.chance.randint(0, 4),
                sorted({self.operator(state) for _ in range(self.chance.randint(0, 5))})],
            "recover domain": lambda: [Party("hsm", party=HSM).claim(domain), state.version, state.hash()],
        }[name]()


def test_random_commands(module):
    """CONCLAVE_RANDOM_SEED repeats a run that failed."""
    seed = int(os.environ.get("CONCLAVE_RANDOM_SEED", time.time_ns()))
    print("seed", seed)
    walk = Walk(Ceremony(module, "random").found(), random.Random(seed))
    for _ in range(STEPS):
        walk.step()
    print("accepted:", len(walk.token.history().steps), sorted(walk.accepted))
    walk.token.session.logout()
    walk.token.login()
