"""Domains founded for the tests by three operators whose keys are Python's, and other processes."""

import json
import os
import pathlib
import subprocess
import sys
import time
from ctypes import c_ulong

from conftest import FLEETS, MODULE, PIN, SO_PIN, run
from cryptoki import ck
from peer.command import HOUR, Command
from peer.encoding import decode
from peer.identity import Party
from peer.log import History, follow
from peer.token import Token

DAY = 24 * HOUR


class Ceremony:
    """A token with both PINs; its SO is logged in. `anna`, `ben` and `cleo` are its operators to be,
    each officer and operator; those of a fleet's token are that already. `rules` are in place of defaults."""

    def __init__(self, module, label, region="eu-north", rules=()):
        self.module, self.label, self.rules, self.fleet = module, label, list(rules), None
        if FLEETS:
            self.slot = FLEETS.make(label, SO_PIN, PIN, region=region, rules=self.rules)
            self.fleet = FLEETS.fleet(self.slot)
        else:
            self.slot = module.make_token(label, SO_PIN.encode(), PIN.encode())
        self.open()
        self.login()
        if self.fleet:
            self.people = self.fleet.people
        else:
            self.people = [Party(name, ["officer", "operator"]) for name in ("Anna", "Ben", "Cleo")]
        self.anna, self.ben, self.cleo = self.people

    def open(self):
        """A new session in place of one that was closed."""
        self.session = self.module.session(self.slot)
        self.domain = self.session.domain

    def init_pin(self, pin):
        self.session.call("C_InitPIN", pin.encode(), c_ulong(len(pin)))

    def login(self, pin=SO_PIN, user=ck.CKU_SO):
        self.session.login(pin.encode(), user)

    @property
    def database(self):
        """The store's file, of SQLite."""
        if FLEETS:
            return pathlib.Path(FLEETS.fleet(self.slot).database.removeprefix("sqlite:"), "token.db")
        return pathlib.Path(os.environ["CONCLAVE_HOME"], "tokens", str(self.slot), "token.db")

    @property
    def state(self):
        return Token(self.domain.export_token()).state

    def founding(self, people=None, region="eu-north"):
        """The arguments of "found domain"."""
        people = self.people if people is None else people
        state = self.state
        return [region, state.members, [person.founder(state.domain) for person in people], self.rules]

    def found(self):
        """Hands the token over to the people; a fleet's are its operators already."""
        if not self.fleet:
            self.domain.execute(self.command("found domain", *self.founding(), by=self.people))
        return self

    def command(self, name, *arguments, by=(), state=None, **times):
        """A command for the state as it is, or this one, signed by these people."""
        command = Command.of(state or self.state, name, *arguments, **times)
        return command.sign(*[person.signing for person in by]).encode()

    def execute(self, name, *arguments, by):
        """Executes a command; the peer computes the same state from the log's new entry."""
        before = self.state
        self.domain.execute(self.command(name, *arguments, by=by))
        return self.check_step(before)

    def check_step(self, before):
        """The state that the newest entry made of `before`, as the peer computes it, is the token's."""
        token = Token(self.domain.export_token())
        entry = decode(self.domain.history())[1][-1]
        state, step = follow(before, entry)
        assert state.encode() == token.encoded
        said, expected = described(self.domain.describe()), public(token)
        assert {name: said[name] for name in said if said[name] != expected[name]} == {}
        return step

    def history(self):
        return History(self.domain.history())

    def login_named(self, name, pin):
        self.session.call("C_LoginUser", c_ulong(ck.CKU_USER), pin.encode(), c_ulong(len(pin)), name.encode(),
                          c_ulong(len(name)))

    def logs_in(self):
        """That both PINs work, as they did."""
        for pin, user in (PIN, ck.CKU_USER), (SO_PIN, ck.CKU_SO):
            self.session.logout()
            self.login(pin, user)


def described(value):
    """What KMS_DescribeDomain says, in the peer's terms."""
    users = [(each["role"], each["generation"], each["has_pin"], bool(each["enrolment"])) for each in value["users"]]
    return {
        **{name: value[name] for name in _PLAIN},
        **{name: value[name] and bytes.fromhex(value[name]) for name in _BYTES},
        "founded": value["governed_by"] == "operators",
        "operators": [(o["id"], o["person"], o["roles"], o["signing"]["public_key"]) for o in value["operators"]],
        "hosts": [(each["id"], each["name"]) for each in value["hosts"]],
        "users": users,
        "rules": [(each["command"], each["alternatives"]) for each in value["rules"]],
        "domain_keys": [(k["id"], k["status"], k["created"], k["retires"], k["region"]) for k in value["domain_keys"]],
        "replication_keys": [each["public_key"] for each in value["replication_keys"]],
        "trusted_regions": [(each["name"], each["domain"]) for each in value["trusted_regions"]],
        "limits": value["limits"],
        "standing_order": value["standing_order"] and value["standing_order"]["interval"],
        "trusted_keys": value["trusted_keys"],
        "revoked": [(each["object"], each["lowest"]) for each in value["revoked"]],
        "recovery": value["recovery"] and [value["recovery"]["threshold"], len(value["recovery"]["holders"])],
    }


_PLAIN = ("name", "region", "partition", "serial", "version", "changed", "suites")
_BYTES = ("domain", "hash", "previous", "log_head", "governance")


def public(token):
    """The same of a token that the peer has read."""
    state, recovery = token.state, token.state.recovery
    roles = ["SO", "user", None]
    minimum = {0: "majority"}
    return {
        **{name: getattr(state, name) for name in _PLAIN},
        **{name: getattr(state, name) for name in _BYTES if name != "hash"},
        "hash": token.hash,
        "founded": bool(state.rules),
        "operators": [(o.id.hex(), o.person, o.roles, o.signing.hex()) for o in state.operators],
        "hosts": [(host.id.hex(), host.name) for host in state.hosts],
        "users": [(roles[u.role] or {"named": u.name}, u.generation, u.agreement is not None, u.enrolment is not None)
                  for u in state.users],
        "rules": [(command, [{role: minimum.get(n, n) for role, n in each} for each in alternatives])
                  for command, alternatives in state.rules],
        "domain_keys": [(k.id.hex(), ["active", "decrypt-only"][k.status], k.created, k.retires, k.region)
                        for k in state.domain_keys],
        "replication_keys": [key.hex() for key in state.replication_keys],
        "trusted_regions": [(name, domain.hex()) for name, domain, _ in state.trusted_regions],
        "limits": state.limits._asdict(),
        "standing_order": state.standing_order and state.standing_order.interval,
        "trusted_keys": [key.hex() for key in state.trusted_keys],
        "revoked": [(key.hex(), lowest) for key, lowest in sorted(state.revoked.items())],
        "recovery": recovery and [len(recovery.commitments), len(recovery.shares)],
    }


def edit(database, script):
    """Runs SQL on a database file in another process: two copies of SQLite in one process would drop
    each other's locks. Blobs are given as x'hex'. The rows of the last statement, blobs in hexadecimal."""
    program = (
        "import sqlite3, sys, json\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "rows = []\n"
        "for statement in json.load(sys.stdin):\n"
        "    rows = db.execute(statement).fetchall()\n"
        "print(json.dumps([[v.hex() if isinstance(v, bytes) else v for v in row] for row in rows]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(database)], input=json.dumps(script), text=True,
                          capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def copy_of_home(home):
    """A copy of a data directory, made by another process: whoever closes a database file drops the
    locks that his process has on it."""
    copied = pathlib.Path(f"{home}-copy-{time.monotonic_ns()}")
    run("cp", "-a", home, copied)
    return copied


def elsewhere(home, label, *commands, pin=SO_PIN, user=ck.CKU_SO):
    """Another process, with this data directory, logs in and executes commands. What it says of each (the
    return code's name and the sentence, or "CKR_OK"), and the history then."""
    request = {"module": str(MODULE), "label": label, "pin": pin, "user": user,
               "commands": [command.hex() for command in commands]}
    done = subprocess.run([sys.executable, "another_process.py"], input=json.dumps(request), text=True, capture_output=True,
                          cwd=pathlib.Path(__file__).parent, env={**os.environ, "CONCLAVE_HOME": str(home)},
                          check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    answers, history = json.loads(done.stdout)
    return answers, bytes.fromhex(history)
