"""Multi-Region keys by the vendor's functions: two tokens of one process, two processes with one data directory, two
with separate ones; every way a message may be carried, and what each refuses."""

import itertools
import json
import os
import pathlib
import subprocess
import sys

import pytest
from conftest import MODULE, PIN
from cryptoki import Error, ck
from kms_process import decoded
from managed import DAY, refused
from regions import Elsewhere, Here

pytestmark = pytest.mark.usefixtures("regions_of")

_names = itertools.count(1)


def trusting(a, b):
    a.trust(b.party, b.replication_keys())
    b.trust(a.party, a.replication_keys())
    return a, b


@pytest.fixture(scope="module", params=[1, 2], ids=["suite1", "suite2"])
def here(request, module):
    """Two Regions in this process."""
    number = next(_names)
    return trusting(*(Here(module, f"{name}-{number}", request.param) for name in ("north", "south")))


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """Two Regions, each in a process and data directory of its own."""
    home = tmp_path_factory.mktemp("apart")
    regions = Elsewhere(home, "north"), Elsewhere(home, "south")
    yield trusting(*regions)
    for region in regions:
        region.close()


def name(region):
    return region.party[0]


def carry(region, other, message):
    """Messages to and fro, until nothing is answered. The kinds are not looked at."""
    at = other
    for _ in range(20):
        answer = at.receive(message)
        if answer is None:
            return
        message, at = answer, region if at is other else other
    raise AssertionError("the Regions never stop answering each other")


def settle(*regions):
    """Sends what is pending, both ways, until nothing is."""
    named = {name(region): region for region in regions}
    for _ in range(20):
        pending = [(region, to, kind, keys) for region in regions for to, kind, keys in region.pending()]
        if not pending:
            return
        for region, to, kind, keys in pending:
            try:
                message = region.tell(kind, to, *keys)
            except Error as error:
                # What came before in this round settled it.
                assert error.name == "KMS_R_NOT_FOUND", error
                continue
            carry(region, named[to], message)
    raise AssertionError(f"still pending: {[(name(r), to, kind) for r, to, kind, _ in pending]}")


def replicated(a, b, *keys):
    for key in keys:
        a.replicate(key, name(b))
    settle(a, b)
    for key in keys:
        assert b.describe(key)["KeyState"] == "Enabled"


def configuration(region, key):
    """What KMS_DescribeReplicas tells, but for the key's id."""
    told = region.replicas(key)
    assert told.pop("KeyId") == key
    return told


def test_each_step_by_its_own_function(here):
    a, b = here
    key = a.create(Description="shared", Tags=[{"TagKey": "t", "TagValue": "a"}])
    before = a.encrypt(key, b"before", {"purpose": "test"})
    with refused("KMS_R_REPLICATION_REFUSED"):
        a.ship(b.offer(name(a), key))
    a.replicate(key, name(b))
    assert a.pending() == [[name(b), "request", [key]]]
    offer = b.offer(name(a), key)
    shipment = a.ship(offer)
    with refused("KMS_R_REPLICATION_REFUSED"):
        a.ship(offer)
    assert b.describe(key) is None
    b.accept(shipment)
    assert b.describe(key)["KeyState"] == "Creating"
    receipt = b.confirm(shipment)
    assert receipt == b.confirm(shipment) or len(receipt) == len(b.confirm(shipment))
    with refused("KMS_R_INVALID_STATE"):
        b.encrypt(key, b"too early")
    activate = a.receive(receipt)
    assert b.decrypt(before, {"purpose": "test"}) == b"before" if b.receive(activate) else False
    settle(a, b)
    for here_, there in (a, b), (b, a):
        assert there.decrypt(here_.encrypt(key, b"text", {"c": "d"}), {"c": "d"}) == b"text"
    described = b.describe(key)
    assert (described["KeyId"], described["MultiRegion"]) == (key, True)
    # C_FindObjects finds it as any other.
    assert len(b.session.find({ck.CKA_ID: key.encode()})) == 1
    assert configuration(a, key)["MultiRegionKeyType"] == "PRIMARY"
    assert configuration(b, key) == described["MultiRegionConfiguration"]
    assert (configuration(b, key)["MultiRegionKeyType"], configuration(b, key)["PrimaryKey"]) == (
        "REPLICA", {"Region": name(a)})
    assert [(each["Region"], each["Registered"]) for each in configuration(a, key)["ReplicaKeys"]] == [(name(b), True)]


def test_messages_alone_do_it_and_a_pair_signs_in_both_regions(here):
    a, b = here
    key = a.create("ECC_NIST_P384", KeyUsage="SIGN_VERIFY")
    replicated(a, b, key)
    data = b"d" * 48
    for one, other in (a, b), (b, a):
        signature = one.sign(key, "CKM_ECDSA", data)
        assert other.verify(key, "CKM_ECDSA", data, signature)
        assert not other.verify(key, "CKM_ECDSA", b"e" * 48, signature)


def test_a_rotation_is_in_force_nowhere_before_all_have_it(here):
    a, b = here
    key = a.create()
    replicated(a, b, key)
    blobs = [a.encrypt(key, b"one")]
    a.ask("RotateKey", KeyId=key)
    assert configuration(a, key)["NewestVersion"] == 2
    with refused("KMS_R_INVALID_STATE"):
        a.ask("RotateKey", KeyId=key)
    with refused("KMS_R_UNSUPPORTED"):
        b.ask("RotateKey", KeyId=key)
    blobs.append(a.encrypt(key, b"still one"))
    # The message by which it is brought into force in A, and not yet in B.
    offer = b.receive(a.tell("request", name(b), key))
    receipt = b.receive(a.receive(offer))
    activate = a.receive(receipt)
    blobs.append(a.encrypt(key, b"two"))
    assert [b.decrypt(blob) for blob in blobs] == [b"one", b"still one", b"two"]
    assert b.ask("GetKeyRotationStatus", KeyId=key) is not None
    blobs.append(b.encrypt(key, b"B has one in force"))
    carry(b, a, b.receive(activate))
    settle(a, b)
    blobs.append(b.encrypt(key, b"B has two in force"))
    for region in a, b:
        assert [region.decrypt(blob) for blob in blobs] == [
            b"one", b"still one", b"two", b"B has one in force", b"B has two in force"]
    assert configuration(a, key)["ReplicaKeys"][0]["ActiveVersion"] == 2


def test_the_primary_moves(here):
    a, b = here
    key = a.create()
    replicated(a, b, key)
    a.promote(key, name(b))
    assert a.describe(key)["KeyState"] == "Updating"
    blob = a.encrypt(key, b"in between")
    settle(a, b)
    assert configuration(b, key)["MultiRegionKeyType"] == "PRIMARY"
    assert configuration(a, key)["PrimaryKey"] == {"Region": name(b)}
    assert a.describe(key)["KeyState"] == "Enabled"
    b.ask("RotateKey", KeyId=key)
    settle(a, b)
    for region in a, b:
        assert region.decrypt(blob) == b"in between"
    assert a.decrypt(b.encrypt(key, b"new")) == b"new"


def test_deletion_waits_for_the_replica(here):
    a, b = here
    key = a.create()
    replicated(a, b, key)
    a.ask("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
    assert a.describe(key)["KeyState"] == "PendingReplicaDeletion"
    a.ask("CancelKeyDeletion", KeyId=key)
    b.ask("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
    assert (a.describe(key)["KeyState"], b.describe(key)["KeyState"]) == ("Disabled", "PendingDeletion")


def test_duplicates_and_old_messages_change_nothing(here):
    a, b = here
    key = a.create()
    a.replicate(key, name(b))
    request = a.tell("request", name(b), key)
    offer = b.receive(request)
    shipment = a.receive(offer)
    receipt = b.receive(shipment)
    again = b.receive(shipment)
    assert again is not None
    activate = a.receive(receipt)
    activated = b.receive(activate)
    state = [region.describe(key) for region in (a, b)]
    assert a.receive(activated) is None
    for message in shipment, activate:
        b.receive(message)
    for message in receipt, activated:
        a.receive(message)
    assert [region.describe(key)["KeyState"] for region in (a, b)] == ["Enabled", "Enabled"]
    assert configuration(b, key) == state[1]["MultiRegionConfiguration"]
    with refused("KMS_R_REPLICATION_REFUSED"):
        a.receive(offer)
    settle(a, b)


def test_refusals_are_told_and_recorded(here):
    a, b = here
    key = a.create()
    a.replicate(key, name(b))
    offer = b.offer(name(a), key)
    before = len(a.refusals()[0])
    for wrong in offer[:-1], offer + b"\0", offer[:200] + bytes([offer[200] ^ 1]) + offer[201:], b"", b"\xd2\x84":
        with refused("KMS_R_REPLICATION_REFUSED"):
            a.receive(wrong)
    # Its own message, brought back.
    with refused("KMS_R_REPLICATION_REFUSED"):
        b.receive(offer)
    assert len(a.refusals()[0]) == before + 5
    with refused("KMS_R_REPLICATION_REFUSED"):
        a.accept(a.ship(offer))
    single = a.kms.create()
    with refused("KMS_R_UNSUPPORTED"):
        a.replicate(single, name(b))
    with refused("KMS_R_NOT_FOUND"):
        a.replicate(key, "nowhere")
    with refused("KMS_R_NOT_FOUND"):
        a.tell("activate", name(b), key)
    with refused("CKR_ARGUMENTS_BAD"):
        a.kms.ask("PendingReplication", Regio="x")
    with refused("KMS_R_DRY_RUN"):
        a.replicate(key, name(b), dry_run=True)
    a.replicate(key, name(b), Withdraw=True)
    assert a.pending() == []
    a.logout()
    with refused("CKR_USER_NOT_LOGGED_IN"):
        a.kms.ask("PendingReplication")
    a.login()


def test_a_login_that_ended_takes_its_offers_along(here):
    a, b = here
    key = a.create()
    a.replicate(key, name(b))
    shipment = a.ship(b.offer(name(a), key))
    b.logout()
    b.login()
    with refused("KMS_R_REPLICATION_REFUSED"):
        b.accept(shipment)
    replicated(a, b, key)


def test_many_keys_in_one_exchange(here):
    a, b = here
    kinds = ("SYMMETRIC_DEFAULT", {}), ("HMAC_256", {}), ("ECC_NIST_P256", {"KeyUsage": "SIGN_VERIFY"})
    keys = [a.create(spec, **members) for spec, members in kinds * 20]
    for key in keys:
        a.replicate(key, name(b))
    carry(a, b, a.tell("request", name(b), *keys))
    settle(a, b)
    assert all(b.describe(key)["KeyState"] == "Enabled" for key in keys)
    assert all(b.decrypt(a.encrypt(key, key.encode())) == key.encode() for key in keys[::3])


def test_two_data_directories(apart):
    a, b = apart
    key = a.create()
    replicated(a, b, key)
    blobs = {region: region.encrypt(key, b"text") for region in (a, b)}
    a.ask("RotateKey", KeyId=key)
    settle(a, b)
    assert a.decrypt(blobs[b]) == b.decrypt(blobs[a]) == b.decrypt(a.encrypt(key, b"text")) == b"text"


def test_another_process_sees_a_replica_at_once(here):
    """One that shares the token with the process that accepts it."""
    a, b = here
    key = a.create()
    blob = a.encrypt(key, b"text")
    replicated(a, b, key)
    request = {"module": str(MODULE), "label": name(b), "pin": PIN,
               "calls": [["decrypt", [{"hex": blob.hex()}], {}], ["describe", [key], {}],
                         ["encrypt", [key, {"hex": b"back".hex()}], {}]]}
    done = subprocess.run([sys.executable, "kms_process.py"], input=json.dumps(request), text=True, check=True,
                          capture_output=True, cwd=pathlib.Path(__file__).parent, env=dict(os.environ), timeout=60)
    decrypted, described, encrypted = json.loads(done.stdout)
    assert (decrypted[0], decoded(decrypted[1])) == ("CKR_OK", b"text")
    assert described[1]["KeyState"] == "Enabled"
    assert a.decrypt(decoded(encrypted[1])) == b"back"


def test_the_last_replica_that_is_gone_lets_its_primary_go(apart):
    """Two weeks later, with what is left of a deleted replica until its primary has heard of it."""
    a, b = apart
    key = a.create()
    replicated(a, b, key)
    a.ask("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
    assert a.describe(key)["KeyState"] == "PendingReplicaDeletion"
    b.ask("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
    assert b.pending() == []
    for region in a, b:
        region.clock(8 * DAY)
        region.ask("RunDue")
    assert (a.describe(key)["KeyState"], b.describe(key)) == ("PendingReplicaDeletion", None)
    assert b.pending() == [[name(a), "deleted", [key]]]
    deleted = b.tell("deleted", name(a), key)
    forgotten = a.receive(deleted)
    assert a.describe(key)["KeyState"] == "PendingDeletion"
    assert a.receive(deleted) is not None
    assert b.receive(forgotten) is None
    assert b.pending() == []
    for region in a, b:
        region.clock(16 * DAY)
        region.ask("RunDue")
        assert region.describe(key) is None
