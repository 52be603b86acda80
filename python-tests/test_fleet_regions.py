"""Regions that are fleets: an exchange is bound to the HSM that began it and to its host's process. If that HSM is
gone, or was expelled, what it began is refused, and the next exchange succeeds; a replica is of all HSMs at once."""

import signal

import pytest
from cryptoki import Error
from managed import refused
from peer.envelope import name_of
from proxy import Proxy as Way
from region_cli import FleetRegion, Proxy, until
from regions import Elsewhere

REFUSED = "KMS_R_REPLICATION_REFUSED"


def trusting(*regions):
    for one in regions:
        for other in regions:
            if other is not one:
                one.trust(other.party, other.replication_keys())


@pytest.fixture(scope="module")
def fleets(tmp_path_factory):
    """Two fleets of several HSMs, with a process each, and a data directory; they trust each other."""
    home = tmp_path_factory.mktemp("fleets")
    made = Elsewhere(home, "a", hsms=3), Elsewhere(home, "b", hsms=3), Elsewhere(home, "e", hsms=0)
    trusting(*made)
    yield made
    for region in made:
        region.close()


PAIRS = {"fleet to fleet": (0, 1), "fleet to embedded": (0, 2), "embedded to fleet": (2, 1)}


@pytest.fixture(params=PAIRS)
def pair(request, fleets):
    return [fleets[number] for number in PAIRS[request.param]]


@pytest.fixture
def two(fleets):
    return fleets[:2]


def replicable(a, b):
    key = a.create()
    a.replicate(key, b.party.region)
    return key


def steps(a, b, key):
    """Of an exchange: (name, who does it, with what the one before gave)."""
    return [
        ("offer", b, lambda _: b.offer(a.party.region, key)),
        ("ship", a, a.ship),
        ("accept", b, lambda shipment: b.accept(shipment) or shipment),
        ("confirm", b, b.confirm),
        ("register", a, a.receive),
        ("activate", b, b.receive),
        ("note", a, a.receive),
    ]


def exchange(a, b, key):
    carried = None
    for _, _, act in steps(a, b, key):
        carried = act(carried)


def lose(region):
    """Kills the HSM that holds the exchanges of the Region's process; its number."""
    number = region.home_hsm()
    region.fleet.hsms[number].kill()
    return number


def regain(region, number, others):
    """What its operators do after a loss: the new keys of their Region must be trusted."""
    region.fleet.restart(region.fleet.hsms[number])
    for other in others:
        other.trust(region.party, region.replication_keys())


def in_use(a, b, key, version=1):
    """That the key is there once in both, with this version in force."""
    for one, other in (a, b), (b, a):
        blob = one.encrypt(key, b"across", {"c": "d"})
        assert name_of(blob)[1] == version
        assert other.decrypt(blob, {"c": "d"}) == b"across"
        assert len(one.objects(key)) == 1
    for one in a, b:
        said = one.describe(key)
        assert (said["KeyState"], said["KeyVersion"]) == ("Enabled", version)
        assert one.pending(key) == []


def test_an_exchange(pair):
    a, b = pair
    key = replicable(a, b)
    exchange(a, b, key)
    in_use(a, b, key)
    a.rotate(key)
    exchange(a, b, key)
    in_use(a, b, key, 2)
    a.promote(key, b.party.region)
    a.receive(b.receive(a.tell("handover", b.party.region, key)))
    b.rotate(key)
    exchange(b, a, key)
    in_use(b, a, key, 3)


# After which step which side's HSM is killed, and which step is refused then: those that need what it held.
LOSSES = [("offer", "b", "accept"), ("ship", "a", "register"), ("accept", "b", "confirm"), ("register", "ab", None)]


@pytest.mark.parametrize(("after", "victims", "refusing"), LOSSES, ids=[f"{after}-{v}" for after, v, _ in LOSSES])
def test_it_starts_over_without_its_hsm(fleets, after, victims, refusing):
    a, b, _ = fleets
    key = replicable(a, b)
    lost, carried = [], None
    for name, _, act in steps(a, b, key):
        if name == refusing:
            with refused(REFUSED):
                act(carried)
            # Whatever was accepted is not in use.
            assert (b.describe(key) or {"KeyState": "Creating"})["KeyState"] == "Creating"
            assert not a.replicas(key)["ReplicaKeys"][0]["Registered"]
            break
        carried = act(carried)
        if name == after:
            lost = [(region, lose(region)) for region in (a, b) if region.party.region in victims]
    if refusing:
        assert a.pending(key) == [[b.party.region, "request"]]
        exchange(a, b, key)
    in_use(a, b, key)
    for region, number in lost:
        regain(region, number, [one for one in fleets if one is not region])


def test_a_rotation_while_the_replica_s_fleet_loses_an_hsm(fleets):
    a, b, e = fleets
    key = replicable(a, b)
    exchange(a, b, key)
    old = b.encrypt(key, b"old")
    a.rotate(key)
    shipment = a.ship(b.offer(a.party.region, key))
    number = lose(b)
    with refused(REFUSED):
        b.accept(shipment)
    # Nobody uses what not all have.
    in_force = {name_of(region.encrypt(key, b"one"))[1] for region in (a, b)}
    assert in_force == {1} and b.decrypt(old) == b"old"
    with refused("KMS_R_INVALID_STATE"):
        a.rotate(key)
    exchange(a, b, key)
    in_use(a, b, key, 2)
    assert a.decrypt(old) == b.decrypt(old) == b"old"
    # The HSM that comes back is another, and has nothing of the one that was there.
    regain(b, number, (a, e))
    with refused(REFUSED):
        b.accept(shipment)
    in_use(a, b, key, 2)


def test_a_replica_is_of_all_hsms_at_once(two):
    a, b = two
    key = replicable(a, b)
    neighbours = [b.neighbour(f"only-{number}", number) for number in range(len(b.fleet.hsms))]
    text = a.encrypt(key, b"text")
    for one in neighbours:
        assert one.describe(key) is None
    exchange(a, b, key)
    for version in 1, 2:
        for one in neighbours:
            assert one.decrypt(text) == b"text"
            blob = one.encrypt(key, b"back")
            assert name_of(blob)[1] == version and a.decrypt(blob) == b"back"
        if version == 1:
            a.rotate(key)
            exchange(a, b, key)
            text = a.encrypt(key, b"text")
    # What one process offered, none else finishes, whichever HSM it asks.
    a.rotate(key)
    shipment = a.ship(b.offer(a.party.region, key))
    for one in neighbours:
        with refused(REFUSED):
            one.accept(shipment)
        one.close()
    b.accept(shipment)
    b.receive(a.receive(b.confirm(shipment)))
    assert name_of(b.encrypt(key, b"three"))[1] == 3


def test_an_offer_of_an_expelled_hsm_is_finished_by_nobody(fleets):
    a, b, e = fleets
    key = replicable(a, b)
    shipment = a.ship(b.offer(a.party.region, key))
    late = b.offer(a.party.region, key)
    number = b.home_hsm()
    alone = b.neighbour("expelled", number)
    b.execute("expel HSM", b.fleet.hsms[number].id, None)
    assert b.fleet.hsms[number].alive
    with refused(REFUSED):
        b.accept(shipment)
    assert b.describe(key) is None
    with pytest.raises(Error, match="CKR_DEVICE_ERROR .*not a member|CKR_DEVICE_ERROR .*no HSM"):
        alone.accept(shipment)
    alone.close()
    # It may have taken the Region's replication key along, which is another now.
    for other in a, e:
        other.trust(b.party, b.replication_keys())
    with refused(REFUSED):
        a.ship(late)
    exchange(a, b, key)
    in_use(a, b, key)
    b.fleet.hsms[number].kill()
    regain(b, number, (a, e))


@pytest.fixture
def commanded(tmp_path):
    """Two fleets by the command line, that trust each other."""
    made = []
    for name, hsms in ("eu-1", 1), ("us-1", 2):
        (tmp_path / name).mkdir()
        made.append(FleetRegion(name, tmp_path / name, hsms=hsms))
        (tmp_path / f"{name}.region").write_text(made[-1].bare("region", "show", "--json"))
    a, b = made
    a.does("trust-region", "--region", tmp_path / "us-1.region")
    b.does("trust-region", "--region", tmp_path / "eu-1.region")
    yield a, b
    for region in made:
        region.close()


def test_the_command_line_starts_over_by_itself(commanded, tmp_path):
    """`region serve` loses the HSM that made its offer before the shipment comes."""
    a, b = commanded
    a("key", "create", "--multi-region", "--alias", "files")
    first, second = b.fleet.hsms
    # There is only one way at first, so that is the one which makes the offer.
    way = Way(tmp_path / "way", second.address)
    way.cut()
    b.configure(first.address, way.address)
    carrier = Proxy(tmp_path / "proxy")
    try:
        with a.begin("replicate", "files", "--to", "us-1", *carrier.carrier) as here:
            until(lambda: not carrier.is_empty("us-1"))
            here.process.send_signal(signal.SIGSTOP)
            with b.serve(*carrier.carrier) as there:
                there.waits_for("message=request .*answer=offer")
                first.kill()
                way.mend()
                here.process.send_signal(signal.SIGCONT)
                assert "this HSM instance made no such offer" in there.waits_for("refused .*message=shipment")
                assert here.ends() == 0, (here.read, there.read)
                assert there.stop() == 0
        key = a.json("key", "describe", "files")["KeyId"]
        assert b.decrypt(a.encrypt("files", b"secret")) == b"secret"
        assert [each["managed"]["KeyId"] for each in b.json("key", "list")] == [key]
    finally:
        carrier.kill()
        way.close()
