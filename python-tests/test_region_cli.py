"""Multi-Region keys by the command line: two Regions with data directories, or fleets, and quorums of their own,
and what carries their messages."""

import json
import os
import pathlib
import shutil
import sys
import time

import pytest

from conftest import FLEETS, MODULE, need, run
from region_cli import LATE, NOT_FOUND, PIN, REFUSED, FleetRegion, Proxy, Region, serving, until

pytestmark = [pytest.mark.usefixtures("regions_of"),
              pytest.mark.one_store("the command line sees no store; test_replication has exchanges by either")]
alone = pytest.mark.embedded("counts the keys of a Region, which a fleet shares with the other tests")


@pytest.fixture(scope="module")
def founded(tmp_path_factory):
    """Two Regions that trust each other, and a multi-Region key in the first, alias/files."""
    there = tmp_path_factory.mktemp("regions")
    regions = []
    for name in "eu-1", "us-1":
        (there / name).mkdir()
        if FLEETS:
            database = FLEETS.postgres and FLEETS.postgres.make(name.replace("-", ""))
            regions.append(FleetRegion(name, there / name, database=database))
        else:
            regions.append(Region(name, there / name))
            regions[-1].found()
        (there / f"{name}.region").write_text(regions[-1].bare("region", "show", "--json"))
    a, b = regions
    said = a.does("trust-region", "--region", there / "us-1.region")
    assert "us-1" in said
    b.does("trust-region", "--region", there / "eu-1.region")
    a("key", "create", "--multi-region", "--alias", "files")
    yield there, regions
    for region in regions:
        region.close()


@pytest.fixture
def both(founded, tmp_path):
    """The Regions as they were founded: copies; but of fleets the same ones, with another key."""
    there, regions = founded
    if not FLEETS:
        shutil.copytree(there, tmp_path / "regions")
        return [Region(region.name, tmp_path / "regions" / region.name) for region in regions]
    regions[0]("alias", "delete", "files")
    regions[0]("key", "create", "--multi-region", "--alias", "files")
    return regions


@pytest.fixture
def a(both):
    return both[0]


@pytest.fixture
def b(both):
    return both[1]


@pytest.fixture
def proxy(tmp_path):
    proxy = Proxy(tmp_path / "proxy")
    yield proxy
    proxy.kill()


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "stick").mkdir()
    return ["--via", tmp_path / "stick"]


def key_id(region, name="files"):
    return region.json("key", "describe", name)["KeyId"]


def test_regions_know_each_other(a, b):
    shown = a.bare("region", "show")
    assert 'Region       "eu-1"' in shown
    prints = [line for line in b.bare("region", "show").splitlines() if line.startswith(("Domain", "Signs"))][:2]
    # What is compared by telephone: the one Region says of itself what the other says of it.
    for line in prints:
        assert line in shown.split("It trusts")[1]
    value = json.loads(a.bare("region", "show", "--json"))
    assert set(value) == {"name", "domain", "replication_keys"} and value["name"] == "eu-1"


def test_one_key_by_the_proxy(a, b, proxy):
    blob = a.encrypt("files", b"secret")
    key = key_id(a)
    with serving(b, by=proxy.carrier) as (there,):
        said = a("replicate", "files", "--to", "us-1", *proxy.carrier)
        assert "1 key is in use in \"us-1\"" in said
        # Again: there is nothing to do.
        assert "1 key is" in a("replicate", key, "--to", "us-1", *proxy.carrier)
        there.waits_for(rf"taken from=eu-1/[0-9a-f]{{32}} message=shipment keys=1 ids={key} bytes=\d+ answer=receipt")
    assert there.read[-1].endswith('ended "us-1"')
    assert b.decrypt(blob) == b"secret"
    assert a.decrypt(b.encrypt(key, b"back")) == b"back"
    replicas = a.json("key", "replicas", "files")
    assert replicas["MultiRegionKeyType"] == "PRIMARY" and replicas["PrimaryKey"]["Region"] == "eu-1"
    replica, = replicas["ReplicaKeys"]
    assert (replica["Region"], replica["Registered"], replica["Version"], replica["ActiveVersion"]) == ("us-1", True, 1, 1)
    text = a("key", "replicas", "files")
    assert "the primary" in text and "us-1" in text
    assert "a replica" in b("key", "replicas", key)
    status, said = b.fails("key", "rotate", key)
    assert "eu-1" in said


@alone
def test_many_keys_by_a_directory(a, b, directory):
    keys = [a.json("key", "create", "--multi-region")["KeyId"] for _ in range(3)]
    a("key", "create", "--alias", "local")
    (a.place / "keys").write_text("# of the shop\n" + "\n".join(keys[:2]) + "\n\n")
    status, said = a.fails("replicate", "local", "--to", "us-1", *directory)
    assert status == 2 and "multi-Region" in said
    with serving(b, by=directory):
        done = a.json("replicate", "--keys-from", "keys", "--to", "us-1", "--batch", "1", *directory)
        assert (done["replicated"], done["waiting"], done["failed"]) == (2, [], [])
        done = a.json("replicate", "--all-multi-region", "--to", "us-1", *directory)
        assert (done["keys"], done["replicated"]) == (4, 4)
    for key in keys + [key_id(a)]:
        assert b.json("key", "describe", key)["KeyState"] == "Enabled"
    assert not list(directory[1].glob("**/*.msg"))


def create_many(region, count):
    """Makes multi-Region keys, in one other process."""
    program = (
        "import sys\n"
        "from cryptoki import Module\n"
        "from kms import Kms\n"
        "module = Module(sys.argv[1])\n"
        "module.initialize()\n"
        "session = module.session(module.slot_of(sys.argv[2]))\n"
        "session.login(sys.argv[3].encode())\n"
        "for _ in range(int(sys.argv[4])):\n"
        "    Kms(session).create(MultiRegion=True)\n"
        "module.finalize()\n"
    )
    run(sys.executable, "-c", program, MODULE, region.name, PIN, count, cwd=pathlib.Path(__file__).parent, env=region.env)


@alone
def test_two_hundred_keys(a, b, proxy):
    create_many(a, 199)
    with serving(b, by=proxy.carrier):
        done = a.json("replicate", "--all-multi-region", "--to", "us-1", "--batch", "64", *proxy.carrier)
    assert (done["keys"], done["replicated"], done["waiting"]) == (200, 200, [])
    states = [key["managed"]["KeyState"] for key in b.json("key", "list") if "managed" in key]
    assert states == ["Enabled"] * 200


def test_rotation_reaches_the_replica(a, b, proxy):
    key = key_id(a)
    with serving(a, b, by=proxy.carrier) as (here, there):
        a("replicate", "files", "--to", "us-1", *proxy.carrier)
        old = a.encrypt("files", b"old")
        a("key", "rotate", "files")
        until(lambda: a.version("files") == 2 and b.version(key) == 2, lambda: f"{here.read} {there.read}")
        new = a.encrypt("files", b"new")
        for region in (a, b):
            assert region.decrypt(old) == b"old" and region.decrypt(new) == b"new"
        here.waits_for("sent to=us-1 message=request keys=1")


def test_a_rotation_waits_for_a_region_that_rests(a, b, proxy):
    with serving(b, by=proxy.carrier):
        a("replicate", "files", "--to", "us-1", *proxy.carrier)
    a("key", "rotate", "files")
    assert a.version("files") == 1
    status, said = a.fails("key", "rotate", "files")
    assert status == REFUSED and "us-1" in said
    # The operators give it up.
    said = a.does("give-up-replica", "--key", key_id(a), "--region", "us-1")
    assert "us-1" in said
    assert a.version("files") == 2 and a.json("key", "replicas", "files")["ReplicaKeys"] == []


@pytest.mark.embedded("the command lives at another time; a fleet's time is that of its HSMs (test_replication)")
def test_a_replica_is_deleted(a, b, proxy):
    need("faketime")
    with serving(b, by=proxy.carrier):
        a("replicate", "files", "--to", "us-1", *proxy.carrier)
    key = key_id(a)
    b("key", "delete", key, "--days", "7", "--yes")
    a("key", "delete", "files", "--days", "7", "--yes")
    assert a.json("key", "describe", key)["KeyState"] == "PendingReplicaDeletion"
    b("key", "rotate", "--due", ahead="+8d")
    assert b.fails("key", "describe", key)[0] == NOT_FOUND
    with serving(a, b, by=proxy.carrier):
        until(lambda: a.json("key", "describe", key)["KeyState"] == "PendingDeletion")
    assert a.json("key", "replicas", key)["ReplicaKeys"] == []


def test_promotion(a, b, proxy):
    key = key_id(a)
    old = a.encrypt("files", b"old")
    with serving(b, by=proxy.carrier):
        a("replicate", "files", "--to", "us-1", *proxy.carrier)
        status, said = a.fails("key", "promote", "files", "--to", "us-1")
        assert status == 2 and "--yes" in said
        assert "Dry run" in a("key", "promote", "files", "--to", "us-1", "--dry-run")
        said = a("key", "promote", "files", "--to", "us-1", "--yes", *proxy.carrier)
        assert "is in \"us-1\"" in said
    assert a.json("key", "replicas", key)["PrimaryKey"]["Region"] == "us-1"
    assert b.json("key", "replicas", key)["MultiRegionKeyType"] == "PRIMARY"
    with serving(a, b, by=proxy.carrier):
        b("key", "rotate", key)
        until(lambda: a.version(key) == 2 and b.version(key) == 2)
    new = b.encrypt(key, b"new")
    assert (a.decrypt(new), b.decrypt(old)) == (b"new", b"old")


def test_emergency(a, b, proxy):
    key = key_id(a)
    with serving(b, by=proxy.carrier):
        a("replicate", "files", "--to", "us-1", *proxy.carrier)
    said = b.does("emergency-promote", "--key", key, "--region", "us-1")
    assert key in said
    assert b.json("key", "replicas", key)["MultiRegionKeyType"] == "PRIMARY"
    b("key", "rotate", key)
    # The old primary comes back and is told.
    with serving(a, b, by=proxy.carrier):
        until(lambda: a.json("key", "replicas", key).get("Outdated"))
    assert "WARNING" in a("key", "replicas", key)
    status, said = a.fails("key", "rotate", key)
    assert "us-1" in said


def test_the_proxy_is_killed_in_the_middle(a, b, proxy):
    with a.begin("replicate", "files", "--to", "us-1", *proxy.carrier) as replicating:
        until(lambda: not proxy.is_empty("us-1"))
        proxy.kill()
        with b.serve(*proxy.carrier) as there:
            there.waits_for(" serving ")
            time.sleep(1)
            proxy.start()
            assert replicating.ends(120) == 0, (replicating.read, there.read)
            assert there.stop() == 0
    assert b.json("key", "describe", key_id(a))["KeyState"] == "Enabled"


def test_a_side_is_killed_in_the_middle(a, b, proxy):
    """Whoever dies leaves what the next one needs."""
    a("replicate", "files", "--to", "us-1", "--no-wait")
    with a.serve(*proxy.carrier) as here:
        here.waits_for("sent to=us-1 message=request")
        here.kill()
    with b.serve(*proxy.carrier) as there:
        there.waits_for("message=request .*answer=offer")
        there.kill()
    with serving(a, b, by=proxy.carrier):
        until(lambda: a.json("key", "replicas", "files")["ReplicaKeys"][0]["Registered"])
        until(lambda: b.json("key", "describe", key_id(a))["KeyState"] == "Enabled")


def test_regions_that_are_not_trusted(a, b, proxy):
    status, said = a.fails("replicate", "files", "--to", "us-2", *proxy.carrier)
    assert status == REFUSED and "does not trust" in said and "us-1" in said
    assert a.fails("replicate", "files", "--to", "eu-1", *proxy.carrier)[0] == 2
    assert a.fails("replicate", "no-such", "--to", "us-1", *proxy.carrier)[0] == NOT_FOUND
    assert a.fails("replicate", "files", "--to", "us-1")[0] == 2
    assert a.fails("replicate", "files", "--to", "us-1", "--proxy", "ftp://x")[0] == 2
    b.does("distrust-region", "--name", "eu-1")
    with serving(b, by=proxy.carrier) as (there,):
        status, said = a.fails("replicate", "files", "--to", "us-1", "--timeout", "3s", *proxy.carrier)
        assert status == LATE and "us-1" in said and "serve" in said
        line = there.waits_for(" UTC refused ")
        assert "message=request" in line and "reason=" in line
    b.does("trust-region", "--region", a.place.parent / "eu-1.region")
    with serving(b, by=proxy.carrier):
        a("replicate", "files", "--to", "us-1", *proxy.carrier)
    assert b.decrypt(a.encrypt("files", b"at last")) == b"at last"


def test_what_was_allowed_is_taken_back(a, b, proxy):
    a("replicate", "files", "--to", "us-1", "--no-wait")
    assert "allowed, not made yet" in a("key", "replicas", "files")
    assert "no longer" in a("replicate", "files", "--to", "us-1", "--withdraw")
    assert a.json("key", "replicas", "files")["ReplicaKeys"] == []
    # Nobody gets it by asking.
    with serving(a, by=proxy.carrier) as (here,):
        status, _ = b.fails("region", "pull", key_id(a), "--from", "eu-1", "--timeout", "3s", *proxy.carrier)
        assert status == LATE
        here.waits_for(" refused .*message=offer")


def test_pull(a, b, proxy):
    key = key_id(a)
    a("replicate", "files", "--to", "us-1", "--no-wait")
    with serving(a, by=proxy.carrier):
        said = b.json("region", "pull", key, "--from", "eu-1", *proxy.carrier)
        assert (said["done"], said["waiting"]) == (1, [])
        assert b.json("key", "describe", key)["KeyState"] == "Enabled"
        # A version that it lacks.
        a("key", "rotate", "files")
        b("region", "pull", key, "--from", "eu-1", *proxy.carrier)
    assert a.version(key) == b.version(key) == 2
    assert b.fails("region", "pull", "files", "--from", "eu-1", *proxy.carrier)[0] == 2


def test_once(a, b, directory):
    a("replicate", "files", "--to", "us-1", "--no-wait")
    with a.serve("--once", "--quiet", "4s", *directory) as here, b.serve("--once", "--quiet", "4s", *directory) as there:
        assert (here.ends(), there.ends()) == (0, 0), (here.read, there.read)
    assert b.json("key", "describe", key_id(a))["KeyState"] == "Enabled"


def test_bad_messages_do_not_end_it(a, b, proxy):
    with b.serve("--json", *proxy.carrier) as there:
        there.waits_for('"serving"')
        for message in (b"\xd2\x84", b"no message", os.urandom(1000)):
            proxy.post("us-1", "eu-1", message)
        until(lambda: sum('"refused"' in line for line in there.read) == 3, lambda: f"{there.read}")
        a("replicate", "files", "--to", "us-1", *proxy.carrier)
        assert proxy.is_empty("us-1")
        assert there.stop() == 0
    events = [json.loads(line) for line in there.read if line.startswith("{")]
    assert [event["message"] for event in events if event["event"] == "refused"] == ["unknown"] * 3
    assert all(event["reason"] for event in events if event["event"] == "refused")
    assert [event["message"] for event in events if event["event"] == "taken"][:3] == ["request", "shipment", "activate"]
