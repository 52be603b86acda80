"""Either Region's process killed at each of its commits, and between any two steps; stores that take no writes. After a
restart and a retry the key is there once, and the Regions agree. Over fleets it is a host that is killed."""

import ctypes
import errno
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from conftest import FLEETS, MODULE, need
from cryptoki import Error, Module, ck
from kms import Kms
from regions import Elsewhere, Here, _json, _plain, answer_calls

pytestmark = [pytest.mark.usefixtures("regions_of"),
              pytest.mark.one_store("what fails, and what a process is killed at, is its writes to files")]

HERE = pathlib.Path(__file__).parent
NAMES = "fault-a", "fault-b"


class Died(Exception):
    """The process ended before it answered."""


class Reopened(Here):
    """A Region whose data are there already."""

    def __init__(self, module, name):
        from ceremony import Ceremony

        self.ceremony = Ceremony.__new__(Ceremony)
        self.ceremony.module, self.ceremony.label, self.ceremony.slot = module, name, module.slot_of(name)
        self.ceremony.open()
        self.login()
        self.session = self.ceremony.session
        self.kms = Kms(self.session)
        self._read, self._refusals, self._refused = 0, [], 0
        self.faults = ctypes.CDLL(os.environ["LD_PRELOAD"])

    def arm(self, kill_at=0, error=0):
        self.faults.faults_arm(kill_at, error)

    def syncs(self):
        return self.faults.faults_syncs()

    def count(self, key):
        """Objects of this CKA_ID."""
        return len(self.session.find({ck.CKA_ID: key.encode()}))


class Region:
    """`Reopened` in a process of its own, which is started anew when it died."""

    def __init__(self, shim, template, home, name):
        self.shim, self.home, self.name = shim, home, name
        # The HSMs of a fleet stay where they are.
        shutil.copytree(template.home, home, ignore=shutil.ignore_patterns("*.sock", "*.admin"))
        entry = f"embedded = false\n{template.fleet.entry(database=f'sqlite:{home}/fleet/store')}" if template.fleet else ""
        (home / "conclave.toml").write_text(entry)
        self.restarts = 0
        self._start()

    def _start(self):
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "test_replication_faults.py"), str(self.home), self.name], cwd=HERE,
            env={**os.environ, "LD_PRELOAD": str(self.shim)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._answer()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            assert self._process.wait(60) == -9
            self.restarts += 1
            self._start()
            raise Died(self.name)
        kind, value = json.loads(line)
        if kind == "error":
            raise Error(*value)
        return _plain(value)

    def __getattr__(self, name):
        def call(*arguments, **named):
            self._process.stdin.write(json.dumps(_json([name, arguments, named])).encode() + b"\n")
            self._process.stdin.flush()
            return self._answer()
        return call

    def kill(self):
        self._process.kill()
        self._process.wait(60)
        self.restarts += 1
        self._start()

    def close(self):
        self._process.stdin.close()
        self._process.wait(60)


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    """The shim, and the data of two Regions that trust each other, with a key in the first."""
    need("gcc")
    work = tmp_path_factory.mktemp("faults")
    shim = work / "faults.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", HERE / "faults.c", "-o", shim, "-ldl"],
                   check=True)
    regions = [Elsewhere(work, name) for name in NAMES]
    for one, other in regions, reversed(regions):
        one.trust(other.party, other.replication_keys())
    key = regions[0].create()
    for region in regions:
        region.end()
    yield shim, regions, key
    for region in regions:
        region.close()


@pytest.fixture
def opened(templates, tmp_path):
    """Makes the two Regions as they were at first, and the key."""
    shim, founded, key = templates
    made = []

    def fresh():
        regions = [Region(shim, each, tmp_path / f"{len(made)}-{name}", name) for each, name in zip(founded, NAMES)]
        made.extend(regions)
        return *regions, key

    yield fresh
    for region in made:
        region.close()


def settle(*regions):
    """What two servers do until nothing is left to be sent. A message that gets lost is sent again."""
    by_name = {region.name: region for region in regions}
    for _ in range(20):
        sent = False
        for region in regions:
            for to, kind, keys in region.pending():
                sent = True
                message, sender = region.tell(kind, to, *keys), region
                receiver = by_name[to]
                while message:
                    message, sender, receiver = receiver.receive(message), receiver, sender
        if not sent:
            return
    raise AssertionError(f"something is always left to be sent: {[region.pending() for region in regions]}")


def state(region, key):
    """What a Region says of the key, without what differs between a primary and its replica."""
    said = region.describe(key)
    regions = said["MultiRegionConfiguration"]
    return {"version": said["KeyVersion"], "newest": regions["NewestVersion"], "term": regions["Term"],
            "primary": regions["PrimaryKey"]["Region"], "state": said["KeyState"]}


class Story:
    """A key's way: replicated, rotated, handed over. Each act may be tried again at any time."""

    def __init__(self, a, b, key):
        self.a, self.b, self.key = a, b, key
        self.blobs = []

    def blob(self, region, text):
        if text not in [known for known, _ in self.blobs]:
            self.blobs.append((text, region.encrypt(self.key, text)))

    def replicate(self):
        if not self.a.replicas(self.key)["ReplicaKeys"]:
            self.a.replicate(self.key, self.b.name)
        self.blob(self.a, b"first")
        settle(self.a, self.b)

    def rotate(self):
        said = self.a.describe(self.key)["MultiRegionConfiguration"]
        if said["NewestVersion"] == 1:
            self.a.ask("RotateKey", KeyId=self.key)
        settle(self.a, self.b)
        self.blob(self.b, b"of the replica")

    def hand_over(self):
        if state(self.a, self.key)["primary"] == self.a.name:
            self.a.promote(self.key, self.b.name)
        settle(self.a, self.b)

    def tell(self):
        """All of it; what a death leaves undone is done again."""
        for act in self.replicate, self.rotate, self.hand_over:
            for _ in range(5):
                try:
                    act()
                    break
                except Died:
                    pass

    def check(self):
        wanted = {"version": 2, "newest": 2, "term": 2, "primary": self.b.name, "state": "Enabled"}
        for region in self.a, self.b:
            assert state(region, self.key) == wanted, region.name
            assert region.count(self.key) == 1
            for text, blob in self.blobs:
                assert region.decrypt(blob) == text
        assert self.a.pending() == self.b.pending() == []
        assert [each["Region"] for each in self.b.replicas(self.key)["ReplicaKeys"]] == [self.a.name]


@pytest.mark.parametrize("victim", [0, 1], ids=["primary", "replica"])
def test_killed_at_each_commit(opened, victim):
    # Over fleets at every other one: each host that starts logs in by an HSM, which takes long.
    for point in itertools.count(1, 2 if FLEETS else 1):
        a, b, key = opened()
        story, region = Story(a, b, key), (a, b)[victim]
        region.arm(kill_at=point)
        story.tell()
        try:
            story.check()
        except Died:
            # What is recorded of uses is written when there is time.
            story.check()
        a.close(), b.close()
        if not region.restarts:
            break
        assert region.restarts == 1
    assert point > 5


def exchange(a, b, key):
    """The steps of one exchange: what each gives is what the next takes."""
    return [
        ("authorise", a, lambda _: a.replicate(key, b.name)),
        ("offer", b, lambda _: b.offer(a.name, key)),
        ("ship", a, lambda offer: a.ship(offer)),
        ("accept", b, lambda shipment: b.accept(shipment) or shipment),
        ("confirm", b, lambda shipment: b.confirm(shipment)),
        ("register", a, lambda receipt: a.receive(receipt)),
        ("activate", b, lambda activate: b.receive(activate)),
        ("note", a, lambda activated: a.receive(activated)),
    ]


STEPS = [name for name, _, _ in exchange(None, None, None)]


@pytest.mark.embedded("takes long: a fleet's host is killed at its commits, its HSMs between the steps (test_fleet_regions)")
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("victim", [0, 1], ids=["primary", "replica"])
def test_killed_between_steps(opened, step, victim):
    """Killed after a step, before anybody has its answer; then what is left of the exchange may go on or be refused."""
    a, b, key = opened()
    carried = None
    for name, _, act in exchange(a, b, key):
        try:
            carried = act(carried)
        except Error as error:
            assert error.name in ("KMS_R_REPLICATION_REFUSED", "KMS_R_NOT_FOUND"), (name, error)
            break
        if name == step:
            (a, b)[victim].kill()
    story = Story(a, b, key)
    story.tell()
    story.check()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS], ids=["full", "read-only"])
@pytest.mark.parametrize("victim", [0, 1], ids=["primary", "replica"])
def test_a_store_that_takes_no_writes(opened, error, victim):
    a, b, key = opened()
    story = Story(a, b, key)
    region = (a, b)[victim]
    for act in story.replicate, story.rotate, story.hand_over:
        before = [(each.describe(key) or {}).get("KeyVersion") for each in (a, b)]
        region.arm(error=error)
        with pytest.raises(Error) as refused:
            act()
        assert refused.value.name != "KMS_R_REPLICATION_REFUSED"
        assert (region.describe(key) or {}).get("KeyVersion") == before[victim]
        region.arm()
        act()
    story.check()


def main(home, name):
    shutil.rmtree(os.environ["HOME"], ignore_errors=True)
    os.environ.update({"CONCLAVE_HOME": f"{home}/data", "CONCLAVE_CONF": f"{home}/conclave.toml", "HOME": str(home)})
    module = Module(MODULE)
    module.initialize()
    answer_calls(Reopened(module, name), None)
    module.finalize()


if __name__ == "__main__":
    main(*sys.argv[1:])
