"""What a quorum decides of keys when another Region cannot be reached: give up replica, emergency promote."""

import itertools

import pytest

from cryptoki import Error
from regions import Here

pytestmark = pytest.mark.usefixtures("regions_of")

_names = itertools.count(1)


@pytest.fixture
def regions(module):
    """Two Regions that trust each other, and a key whose primary is in the first and a replica in the second."""
    number = next(_names)
    a, b = Here(module, f"quorum-eu-{number}"), Here(module, f"quorum-us-{number}")
    a.trust(b.party, b.replication_keys())
    b.trust(a.party, a.replication_keys())
    key = a.create()
    a.replicate(key, b.party.region)
    exchange(a, b, key)
    return a, b, key


def exchange(a, b, key):
    """Brings a key from A to B, up to its activation there."""
    shipment = a.ship(b.offer(a.party.region, key))
    b.accept(shipment)
    activate = a.receive(b.confirm(shipment))
    if activate:
        a.receive(b.receive(activate))


def refused(region, key, name, *arguments):
    """The reason why a command is refused; neither the domain nor the key has changed then."""
    version, described = region.ceremony.state.version, region.describe(key)
    with pytest.raises(Error) as error:
        region.execute(name, *arguments)
    assert (region.ceremony.state.version, region.describe(key)) == (version, described)
    return error.value.name


def test_a_replica_is_given_up(regions):
    a, b, key = regions
    eu, us = a.party.region, b.party.region
    before = a.ceremony.state
    a.ask("RotateKey", KeyId=key)
    assert a.replicas(key)["NewestVersion"] == 2
    old = a.encrypt(key, b"with version 1")
    with pytest.raises(Error, match=us):
        a.ask("RotateKey", KeyId=key)

    missing = f"mrk-{0:032x}"
    assert refused(a, key, "give up replica", [missing], us) == "KMS_R_NOT_FOUND"
    assert refused(a, key, "give up replica", sorted([key, missing]), us) == "KMS_R_NOT_FOUND"
    assert refused(a, key, "give up replica", [key], "ap-south") == "KMS_R_NOT_FOUND"
    assert refused(a, key, "give up replica", [key], eu) == "CKR_FUNCTION_REJECTED"
    anna, ben, _ = a.ceremony.people
    command = a.ceremony.command("give up replica", [key], us, by=[anna])
    with pytest.raises(Error, match="quorum"):
        a.ceremony.domain.execute(command)
    command = a.ceremony.command("give up replica", [key], us, by=[anna, ben])
    a.logout()
    with pytest.raises(Error):
        a.ceremony.domain.execute(command)
    a.login()
    assert a.replicas(key)["ReplicaKeys"] and a.ceremony.state.version == before.version

    a.ceremony.execute("give up replica", [key], us, by=[anna, ben])
    assert a.ceremony.state.version == before.version + 1
    assert a.ceremony.history().steps[-1].name == "give up replica"
    # Nothing waits for the replica any more: the pending version is in force.
    assert a.replicas(key)["ReplicaKeys"] == [] and not a.pending()
    new = a.encrypt(key, b"with version 2")
    a.ask("RotateKey", KeyId=key)
    assert [a.decrypt(blob) for blob in (old, new)] == [b"with version 1", b"with version 2"]
    assert b.decrypt(old) == b"with version 1"
    # Done once.
    assert refused(a, key, "give up replica", [key], us) == "KMS_R_NOT_FOUND"
    # A logout writes the rows that wait.
    a.logout()
    a.login()
    assert [each["target"] for each in a.kms.read_audit() if each.get("action") == "GiveUpReplica"] == [us]


def test_a_replica_becomes_the_primary_without_the_old_one(regions):
    a, b, key = regions
    eu, us = a.party.region, b.party.region
    blob = a.encrypt(key, b"before")
    assert refused(a, key, "emergency promote", [key], eu) == "KMS_R_INVALID_STATE"
    assert refused(b, key, "emergency promote", [key], "ap-south") == "CKR_FUNCTION_REJECTED"
    version = b.ceremony.state.version
    b.execute("emergency promote", [key], us)
    assert b.ceremony.state.version == version + 1
    told = b.replicas(key)
    assert (told["MultiRegionKeyType"], told["ReplicaKeys"]) == ("PRIMARY", [])
    # No handover and no other emergency comes to the same.
    term = told["Term"]
    assert term >> 32 == 1
    b.ask("RotateKey", KeyId=key)
    newer = b.encrypt(key, b"after")

    # The old primary comes back, and finds itself outdated.
    message = b.tell("handover", eu, key)
    assert b.receive(a.receive(message)) is None and not b.pending()
    assert a.replicas(key)["Outdated"] == {"Region": us, "Term": term}
    with pytest.raises(Error, match=us):
        a.ask("RotateKey", KeyId=key)
    a.execute("emergency promote", [key], us)
    assert a.replicas(key)["MultiRegionKeyType"] == "REPLICA"
    b.replicate(key, eu)
    exchange(b, a, key)
    assert (a.decrypt(newer), b.decrypt(blob)) == (b"after", b"before")
    assert a.replicas(key)["Term"] == term
    b.ask("RotateKey", KeyId=key)
    exchange(b, a, key)
    assert b.decrypt(a.encrypt(key, b"of both")) == b"of both"
