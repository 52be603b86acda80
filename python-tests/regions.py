"""Regions of the module, for tests of replication: in this process, or each in a process of its own that lives at its
own time, with a data directory or a fleet.

Over fleets (conftest.py) a Region is one, unless it is made as something else."""

import ctypes
import functools
import itertools
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import time
from ctypes import byref, c_ulong

from ceremony import Ceremony
from conftest import FLEETS, MODULE, PIN, need
from cryptoki import Error, Module, ck
from fleet import FIRST_SLOT, Fleet
from kms import Kms
from kms_process import decoded, encoded
from material import bring
from peer.replication import Party


class Quorum:
    """What a Region's operators do, who `execute` commands."""

    def trust(self, party, replication_keys):
        self.execute("trust Region", [*party, replication_keys])

    def distrust(self, name):
        self.execute("distrust Region", name)

    def rotate_rsk(self):
        self.execute("rotate RSK")


class Here(Quorum):
    """A founded domain of the module in this process, as a Region of this name, whose user is logged in."""

    def __init__(self, module, name, suite=1):
        self.ceremony = Ceremony(module, name, name)
        if self.ceremony.fleet is None:
            arguments = self.ceremony.founding(region=name)
            self.ceremony.domain.execute(self.ceremony.command("found domain", *arguments, by=self.ceremony.people))
        if suite == 2:
            self.execute("allow suite", 2, True)
        self.ceremony.session.logout()
        self._begin()

    def _begin(self):
        self.login()
        state = self.ceremony.state
        self.party = Party(state.region, state.domain)
        self.session = self.ceremony.session
        self.kms = Kms(self.session)
        self._read, self._refusals, self._refused = 0, [], 0

    # The quorum

    def execute(self, name, *arguments):
        anna, ben, _ = self.ceremony.people
        self.ceremony.domain.execute(self.ceremony.command(name, *arguments, by=[anna, ben]))

    def replication_keys(self):
        return self.ceremony.state.replication_keys

    # Keys

    def create(self, spec=None, **members):
        return self.kms.create(spec, MultiRegion=True, **members)

    def bring(self, key, material):
        bring(self.kms, key, material)

    def ask(self, name, **members):
        return self.kms.ask(name, **members)

    def describe(self, key):
        """None if there is no such key."""
        try:
            return self.kms.describe(key)
        except Error as error:
            if error.name != "KMS_R_NOT_FOUND":
                raise
            return None

    def objects(self, key):
        return self.kms.objects(key)

    def rotate(self, key):
        self.kms.rotate(key)

    def encrypt(self, key, plaintext, context=None):
        return self.kms.encrypt(key, plaintext, context)

    def decrypt(self, blob, context=None):
        return self.kms.decrypt(blob, context)

    def sign(self, key, mechanism, data):
        return self.session.sign(getattr(ck, mechanism), self.kms.objects(key)[0], data)

    def verify(self, key, mechanism, data, signature):
        return self.session.verify(getattr(ck, mechanism), self.kms.objects(key)[-1], data, signature)

    # Replication

    def replicate(self, key, region, **more):
        """Authorises it."""
        self.kms.ask("ReplicateKey", KeyId=key, ReplicaRegion=region, **more)

    def promote(self, key, region):
        self.kms.ask("UpdatePrimaryRegion", KeyId=key, PrimaryRegion=region)

    def replicas(self, key):
        return self.kms.ask("DescribeReplicas", KeyId=key)

    def pending(self, key=None):
        """What waits to be sent: Regions, kinds and keys; about one key, Regions and kinds."""
        waiting = self.kms.ask("PendingReplication")
        if key is None:
            return [[each["Region"], each["Kind"], each["KeyIds"]] for each in waiting]
        return [[each["Region"], each["Kind"]] for each in waiting if key in each["KeyIds"]]

    def tell(self, kind, region, *keys):
        """A message of this kind."""
        return self.kms.tell_replicas(kind, region, list(keys))

    def offer(self, region, *keys):
        return self.kms.offer_replicas(region, list(keys))

    def ship(self, offer):
        return self._counted(self.kms.ship_replicas, offer)

    def accept(self, shipment):
        self._counted(self.kms.accept_replicas, shipment)

    def confirm(self, shipment):
        """The receipt."""
        return self._counted(self.kms.confirm_replicas, shipment)

    def receive(self, message):
        """The answer, or None."""
        return self._counted(self.kms.receive_replication, message)

    def _counted(self, call, message):
        try:
            return call(message)
        except Error as error:
            self._refused += error.name == "KMS_R_REPLICATION_REFUSED"
            raise

    def outcome(self, message):
        """The name of the return code of receiving it."""
        try:
            self.receive(message)
            return "CKR_OK"
        except Error as error:
            return error.name

    def outcomes(self, messages):
        """Those of many, each once."""
        return sorted({self.outcome(message) for message in messages})

    def outcomes_changed(self, message, changes):
        """Those of many changes, rows [bytes to change from, to, by what]."""
        return self.outcomes([message[:start] + by + message[end:] for start, end, by in changes])

    def refusals(self):
        """The events of refused messages, oldest first, when all are written; and how many were refused."""
        until = time.monotonic() + 10
        while True:
            for row in self.kms.read_audit(after=self._read):
                self._read = row["id"]
                if row.get("action") == "RefuseReplication":
                    self._refusals.append(row)
            if len(self._refusals) >= self._refused or time.monotonic() > until:
                return self._refusals, self._refused
            # Not time.sleep(), which a changed clock confuses.
            select.select([], [], [], 0.005)

    def logout(self):
        """Wipes what is kept of exchanges."""
        self.session.logout()

    def login(self):
        self.ceremony.login(PIN, ck.CKU_USER)

    # A fleet

    def described(self):
        """What KMS_DescribeSession tells."""
        room = c_ulong(65536)
        text = ctypes.create_string_buffer(room.value)
        self.session.call("KMS_DescribeSession", text, byref(room))
        return json.loads(text.raw[:room.value])

    def home_hsm(self):
        """The number of the HSM that holds this process's exchanges."""
        return [hsm["Home"] for hsm in self.described()["Hsms"]].index(True)


class Joined(Here):
    """A fleet as one of its host's processes has it; its operators are elsewhere."""

    def __init__(self, module):
        self.ceremony = Ceremony.__new__(Ceremony)
        self.ceremony.module, self.ceremony.slot = module, FIRST_SLOT
        self.ceremony.open()
        self._begin()


class Elsewhere(Quorum):
    """The same in another process: each method of `Here` is one of it. `clock` moves its time. If it has `hsms` it is
    a fleet, whose time moves too; else it has a data directory of its own."""

    databases = itertools.count()

    def __init__(self, home, name, suite=1, hsms=1 if FLEETS else 0):
        self.fleet = None
        self._prepare(home, name)
        if hsms:
            database = None
            if FLEETS and FLEETS.postgres:
                database = FLEETS.postgres.make(f"region{next(self.databases)}")
            # A changed clock comes by a library that a hardened HSM would not let in.
            self.fleet = Fleet(self.home / "fleet", hsms, database, name, name, env=self._env, hardening="off")
            if suite == 2:
                self.execute("allow suite", 2, True)
        self._start(name, suite)

    def neighbour(self, name, number=None):
        """Another process that uses this one's fleet, or this HSM of it alone."""
        other = Elsewhere.__new__(Elsewhere)
        other.fleet = self.fleet
        other._prepare(self.home.parent, f"{self.home.name}-{name}")
        other._start(name, None, [self.fleet.hsms[number].address] if number is not None else None)
        return other

    def _prepare(self, home, name):
        need("faketime")
        self.home = pathlib.Path(home, name)
        self.home.mkdir(mode=0o700)
        self.log = self.home / "log"
        preload = subprocess.run(["faketime", "-f", "+0s", "printenv", "LD_PRELOAD"], capture_output=True, check=True)
        self._time = self.home / "time"
        self._time.write_text("+0s")
        self._env = {"LD_PRELOAD": preload.stdout.decode().strip(), "FAKETIME_TIMESTAMP_FILE": str(self._time),
                     "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}

    def _start(self, name, suite, hsms=None):
        (self.home / "data").mkdir(mode=0o700)
        entry = "embedded = false\n" + self.fleet.entry(hsms) if self.fleet else ""
        (self.home / "conclave.toml").write_text(f'log = "{self.log}"\n{entry}')
        env = {**os.environ, **self._env}
        # It has no fleets of its own.
        env.pop("CONCLAVE_TEST_FLEET", None)
        self._process = subprocess.Popen(
            [sys.executable, "regions.py", str(self.home), "" if self.fleet else name, str(suite)],
            cwd=pathlib.Path(__file__).parent, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.party = Party(*self._answer())

    def _answer(self):
        line = self._process.stdout.readline()
        assert line, f"the process of {self.home.name} ended"
        kind, value = json.loads(line)
        if kind == "error":
            raise Error(*value)
        return _plain(value)

    def _call(self, name, *arguments, **named):
        self._process.stdin.write(json.dumps(_json([name, arguments, named])).encode() + b"\n")
        self._process.stdin.flush()
        return self._answer()

    def __getattr__(self, name):
        return functools.partial(self._call, name)

    def execute(self, name, *arguments):
        if self.fleet:
            self.fleet.execute(name, *arguments, by=self.fleet.people[:2])
        else:
            self._call("execute", name, *arguments)

    def clock(self, seconds):
        self._time.write_text(f"{seconds:+d}s")

    def logged(self):
        """The lines of its log."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def end(self):
        """Ends the process; a fleet's HSMs stay."""
        self._process.stdin.close()
        self._process.wait(60)

    def close(self):
        if self._process.poll() is None:
            self.end()
        if self.fleet and self.fleet.directory.parent == self.home:
            self.fleet.close()
        shutil.rmtree(self.home, ignore_errors=True)


def _plain(value):
    value = decoded(value)
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _json(value):
    if isinstance(value, dict):
        return {key: _json(one) for key, one in value.items()}
    return [_json(one) for one in value] if isinstance(value, (list, tuple)) else encoded(value)


def answer_calls(region, first):
    """Says `first`, and then what each call on the standard input gives, until that ends."""
    answer = "value", first
    while True:
        print(json.dumps(_json(answer)), flush=True)
        line = sys.stdin.readline()
        if not line:
            break
        called, arguments, named = _plain(json.loads(line))
        try:
            answer = "value", getattr(region, called)(*arguments, **named)
        except Error as error:
            answer = "error", (error.function, error.rv, error.sentence)


def main(home, name, suite):
    """The other process of `Elsewhere`: a line of JSON for each call and for its answer. Without a name it is one of a
    fleet that is there."""
    shutil.rmtree(os.environ["HOME"])
    os.environ.update({"CONCLAVE_HOME": f"{home}/data", "CONCLAVE_CONF": f"{home}/conclave.toml", "HOME": home})
    module = Module(MODULE)
    module.initialize()
    region = Here(module, name, int(suite)) if name else Joined(module)
    answer_calls(region, region.party)
    module.finalize()


if __name__ == "__main__":
    main(*sys.argv[1:])
