"""A hostile carrier between two Regions of the module, in processes and data directories of their own: it holds all
messages, and does to them what it likes. Each test ends with an honest exchange that succeeds."""

import contextlib
import itertools
import re

import pytest
from conftest import FLEETS
from cryptoki import Error
from managed import DAY, refused
from peer.encoding import decode, encode
from peer.keys import new_key, spki
from peer.region import Region
from peer.replication import Message, Party, make, sign
from regions import Elsewhere

pytestmark = [pytest.mark.usefixtures("regions_of"), pytest.mark.one_store("what is refused is not stored")]

REFUSED = "KMS_R_REPLICATION_REFUSED"
KINDS = ["request", "offer", "shipment", "receipt", "activate", "activated"]


class World:
    """Region A with the primaries, B with the replicas, and C, which both trust too and which is the peer's."""

    def __init__(self, home, suite=1, names="ab"):
        self.a, self.b = [Elsewhere(home, f"{name}{suite}", suite) for name in names]
        self.c = Region("c", suite)
        for one, other in ((self.a, self.b), (self.b, self.a)):
            one.trust(other.party, other.replication_keys())
            one.trust(self.c.party, self.c.entry()[2])
            self.c.trust(one.party, one.replication_keys())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.a.close()
        self.b.close()

    def other(self, region):
        return self.b if region is self.a else self.a

    def make(self, count=1, **members):
        """Keys of A that may go to B."""
        keys = [self.a.create(**members) for _ in range(count)]
        for key in keys:
            self.a.replicate(key, self.b.party.region)
        return keys if count > 1 else keys[0]

    def carry(self, message, to, until=None):
        """Carries a message and the answers up to this kind, which is not delivered; all of them, by kind."""
        seen = {}
        while message:
            kind = Message(message).kind
            seen[kind] = message
            if kind == until:
                break
            message, to = to.receive(message), self.other(to)
        return seen

    def exchange(self, *keys, until=None, primary=None):
        """What the primary's Region has to say of the keys, or else an exchange that the other asks for."""
        primary = primary or self.a
        other = self.other(primary)
        pending = primary.pending(keys[0])
        for kind in "request", "activate":
            if [other.party.region, kind] in pending:
                return self.carry(primary.tell(kind, other.party.region, *keys), other, until)
        return self.carry(other.offer(primary.party.region, *keys), primary, until)

    def works(self, *keys, primary=None):
        """That an honest exchange of the keys succeeds now, both Regions agree, and their audit logs have what was
        refused."""
        self.exchange(*keys, primary=primary)
        self.agree(*keys)
        for one in self.a, self.b:
            recorded, count = one.refusals()
            assert len(recorded) >= count

    def read(self, key):
        """That each reads what the other encrypts."""
        for one in self.a, self.b:
            assert self.other(one).decrypt(one.encrypt(key, b"across")) == b"across"

    def agree(self, *keys):
        for key in keys:
            self.read(key)
            said = [one.describe(key) for one in (self.a, self.b)]
            assert len({(s["KeyVersion"], s["MultiRegionConfiguration"]["NewestVersion"]) for s in said}) == 1
            assert {s["MultiRegionConfiguration"]["MultiRegionKeyType"] for s in said} == {"PRIMARY", "REPLICA"}
            assert len(self.b.objects(key)) == 1

    def addressee(self, message):
        to = Message(message).to
        return self.a if to == self.a.party else self.b

    @contextlib.contextmanager
    def unchanged(self, *keys):
        before = self.facts(*keys)
        yield
        assert self.facts(*keys) == before

    def facts(self, *keys):
        return [one.describe(key) for one in (self.a, self.b) for key in keys]

    def refuses(self, region, message, reason, *keys):
        """That this Region refuses the message for this reason, which its log has then."""
        logged = len(region.logged())
        with self.unchanged(*keys), pytest.raises(Error, match=f"{REFUSED} .*(?:{reason})"):
            region.receive(message)
        assert [line for line in region.logged()[logged:] if "WARN" in line and re.search(reason, line)]


@pytest.fixture(scope="module")
def world(home):
    with World(home) as made:
        yield made


@pytest.fixture(scope="module")
def worlds(home, world):
    """One of each suite."""
    with World(home, 2) as made:
        yield {1: world, 2: made}


# What a carrier can do without a key


@pytest.mark.parametrize("kind", KINDS)
def test_dropped(world, kind):
    key = world.make()
    seen = world.exchange(key, until=kind)
    assert list(seen) == KINDS[:KINDS.index(kind) + 1]
    held = world.b.describe(key)
    assert held is None or held["KeyState"] == ("Enabled" if kind == "activated" else "Creating")
    world.works(key)
    # And of a new version.
    world.a.rotate(key)
    world.exchange(key, until=kind)
    world.read(key)
    world.works(key)
    assert world.a.describe(key)["KeyVersion"] == 2 and not world.a.pending(key)


def test_delayed(home):
    """Past their time requests, offers and shipments are refused, and what the Regions kept for them is gone."""
    with World(home, names="de") as world:
        keys = world.make(3)
        late = [world.exchange(key, until=kind)[kind] for key, kind in zip(keys, KINDS)]
        for one in world.a, world.b:
            one.clock(700)
        for message, reason in zip(late, ["expired", "expired", "expired|offer"]):
            world.refuses(world.addressee(message), message, reason, *keys)
        world.works(*keys)


def test_duplicated(world):
    key = world.make()
    message, to, answers = world.a.tell("request", world.b.party.region, key), world.b, {}
    while message:
        kind, answer = Message(message).kind, to.receive(message)
        with world.unchanged(key):
            if kind == "offer":
                world.refuses(to, message, "offer", key)
            else:
                answers[kind] = again(to, message)
                if kind == "shipment":
                    assert answers[kind] == answer
        message, to = answer, world.other(to)
    assert len(world.b.objects(key)) == 1
    world.works(key)


def again(region, message):
    """The answer to a message that may also be refused."""
    try:
        return region.receive(message)
    except Error as error:
        assert error.name == REFUSED
        return None


def test_reordered(world):
    """Every order in which the messages of two exchanges can come: an older shipment never undoes a newer one."""
    key = world.make()
    old = world.exchange(key, until="shipment")["shipment"]
    world.works(key)
    world.a.rotate(key)
    world.works(key)
    with world.unchanged(key):
        receipt = again(world.b, old)
        if receipt:
            again(world.a, receipt)
    world.agree(key)
    # An activation before its version is there, and a receipt before the shipment of another exchange.
    world.a.rotate(key)
    first = world.exchange(key, until="activate")
    world.a.receive(world.b.receive(first["activate"]))
    world.a.rotate(key)
    late = world.exchange(key, until="shipment")["shipment"]
    with world.unchanged(key):
        for message in first.values():
            if Message(message).kind != "request":
                again(world.addressee(message), message)
    world.carry(late, world.b)
    world.agree(key)
    assert world.a.describe(key)["KeyVersion"] == 4


def test_rotated_on_the_way(world):
    """A receipt of what is no longer the version in use puts nothing into use."""
    key = world.make()
    late = world.exchange(key, until="shipment")["shipment"]
    world.a.rotate(key)
    blob = world.a.encrypt(key, b"of the second version")
    message, to = late, world.b
    while message:
        message, to = again(to, message), world.other(to)
    assert (world.b.describe(key) or {}).get("KeyState") in (None, "Creating")
    world.works(key)
    assert world.b.decrypt(blob) == b"of the second version" and world.b.describe(key)["KeyVersion"] == 2


def test_flooded(world):
    """More offers and shipments than an HSM remembers, none of which is ever answered."""
    key, other = world.make(2)
    request = world.a.tell("request", world.b.party.region, key)
    offers = [world.b.receive(request) for _ in range(70)]
    for _ in range(70):
        world.exchange(other, until="receipt")
    again(world.a, offers[0])
    world.works(key, other)


def test_replayed(world):
    """Everything of earlier exchanges, in every Region, also where it was not for."""
    key = world.make()
    earlier = list(world.exchange(key).values())
    world.a.rotate(key)
    earlier += world.exchange(key).values()
    world.a.rotate(key)
    world.works(key)
    with world.unchanged(key):
        for message, region in itertools.product(earlier[1:6] + earlier[7:], (world.a, world.b)):
            again(region, message)
    world.works(key)


def test_swapped_exchanges(world):
    """The answers of two exchanges, and of two keys, in each other's place."""
    one, two = world.make(2)
    first, second = world.exchange(one, until="offer")["offer"], world.exchange(two, until="offer")["offer"]
    ships = [world.a.receive(offer) for offer in (first, second)]
    mixed = [swap(*ships, place) for place in (2, 3, 5, 7)] + [swap(*ships[::-1], -1)]
    for message in mixed:
        world.refuses(world.b, message, "", one, two)
        assert world.b.describe(one) is world.b.describe(two) is None
    receipts = [world.b.receive(shipment) for shipment in reversed(ships)]
    for place in (2, 3, 4):
        world.refuses(world.a, swap(*receipts, place), "", one, two)
    for receipt in receipts:
        world.carry(receipt, world.a)
    world.agree(one, two)


def swap(message, other, place):
    """With the other's value in this place of the content, under the signature as it was."""
    tagged, values = decode(message), decode(decode(other).value[2])
    content = decode(tagged.value[2])
    content[place] = values[place]
    tagged.value[2] = encode(content)
    return encode(tagged)


def test_swapped_regions(world):
    """Each message goes to the Region that sent it, and with the parties exchanged to either."""
    key = world.make()
    for kind in KINDS:
        message = world.exchange(key, until=kind)[kind]
        content = Message(message)
        sender = world.other(world.addressee(message))
        world.refuses(sender, message, "another Region|for ", key)
        tagged = decode(message)
        values = decode(tagged.value[2])
        for parties in ([values[1], values[0]], [values[0], values[0]], [values[0], list(world.c.party)],
                        [list(world.c.party), values[1]], [values[0], ["d", values[1][1]]],
                        [values[0], [values[1][0], bytes(16)]]):
            tagged.value[2] = encode([*parties, *values[2:]])
            with world.unchanged(key):
                assert {region.outcome(encode(tagged)) for region in (world.a, world.b)} == {REFUSED}
        assert content.sender == sender.party
    world.works(key)


@pytest.mark.parametrize("suite", [1, 2])
def test_truncated_and_flipped(worlds, suite):
    """Every length of every kind of message, and every byte of it."""
    world = worlds[suite]
    key = world.make()
    messages = dict(world.exchange(key))
    world.a.promote(key, world.b.party.region)
    messages["handover"] = world.a.tell("handover", world.b.party.region, key)
    messages["taken"] = world.b.receive(messages["handover"])
    assert world.a.receive(messages["taken"]) is None
    other = world.make()
    for kind in KINDS:
        # Not yet used, so that nothing but the change is the reason.
        messages[kind] = world.exchange(other, until=kind)[kind]
    with world.unchanged(key, other):
        for kind, message in messages.items():
            # Of the longer messages of suite 2 a part, and over a fleet, where each is a request of its own.
            step = 29 if suite == 2 or FLEETS else 1
            cuts = [[n, len(message), b""] for n in range(1, len(message), step)]
            flips = [[n, n + 1, bytes([message[n] ^ 1 << n % 8])] for n in range(0, len(message), step)]
            longer = [[len(message), len(message), b"\0"]]
            found = world.addressee(message).outcomes_changed(message, cuts + flips + longer)
            assert found == [REFUSED], kind
    world.works(key, primary=world.b)
    world.works(other)


# With keys of its own


def test_own_keys(world):
    """The carrier signs with a key of its own, puts its own agreement key into an offer, and both."""
    own, key = new_key(), world.make()
    for kind in KINDS:
        message = world.exchange(key, until=kind)[kind]
        content = Message(message)
        forged = sign(own, kind, content.sender.domain, content.payload)
        world.refuses(world.addressee(message), forged, "signed", key)
        tagged = decode(forged)
        tagged.value[0] = decode(message).value[0]
        world.refuses(world.addressee(message), encode(tagged), "signed", key)
    key = world.make()
    offer = world.exchange(key, until="offer")["offer"]
    content = Message(offer)
    values = decode(content.payload)
    values[6] = spki(own)
    for forged in (sign(own, "offer", content.sender.domain, encode(values)), swap_content(offer, values)):
        world.refuses(world.a, forged, "", key)
    shipment = Message(world.a.receive(offer))
    values = decode(shipment.payload)
    values[5] = spki(own)
    world.refuses(world.b, swap_content(shipment.data, values), "", key)
    world.carry(shipment.data, world.b)
    world.agree(key)


def swap_content(message, values):
    tagged = decode(message)
    tagged.value[2] = encode(values)
    return encode(tagged)


def test_as_another_region(world):
    """Region C, which both trust, says that it is A, and then speaks for itself of keys that are not its."""
    c, key = world.c, world.make()
    seen = world.exchange(key)
    other = world.make()
    for kind in KINDS:
        message = Message(world.exchange(other, until=kind)[kind] if kind != "activated" else seen[kind])
        to = world.addressee(message.data)
        as_other = sign(c.signing[-1], kind, message.sender.domain, message.payload)
        world.refuses(to, as_other, "", key, other)
        for sender in (c.party, Party(message.sender.region, c.party.domain), Party("c", message.sender.domain)):
            values = decode(message.payload)[2:]
            forged = make(c.signing[-1], kind, sender, to.party, *values)
            if kind == "request":
                # It authorises nothing, and asks for an offer that only C could ship for.
                with world.unchanged(key):
                    again(to, forged)
            else:
                world.refuses(to, forged, "", key, other)
    world.works(key, other)
    # Handovers and deletions of a replica that C never was or had.
    [[_, incarnation, term, _]] = Message(seen["activate"]).keys
    for kind, to, row in (
        ("handover", world.b, [key, incarnation, term, term + 1, c.party, None]),
        ("handover", world.b, [key, incarnation, term, term + 1, world.b.party, [bytes(16), 1, 1, None, []]]),
        ("activate", world.b, [key, incarnation, term, 1]),
        ("taken", world.a, [key, incarnation, term + 1]),
        ("activated", world.a, [key, incarnation, term, 1]),
        ("forgotten", world.b, [key, incarnation, term]),
    ):
        world.refuses(to, c.make(kind, to.party, [row]), "", key)
    with world.unchanged(key):
        again(world.a, c.make("deleted", world.a.party, [[key, incarnation, term]]))
    world.works(key)


# Of what was used or authorised before


def test_an_offer_is_shipped_for_once(world):
    key = world.make()
    offer = world.exchange(key, until="offer")["offer"]
    shipment = world.a.receive(offer)
    world.refuses(world.a, offer, "answered before", key)
    # Another shipment for an offer that was used is refused too: its private half is gone.
    world.carry(shipment, world.b)
    world.agree(key)
    world.a.logout()
    world.a.login()
    another = again(world.a, offer)
    if another:
        world.refuses(world.b, another, "offer", key)
    world.works(key)


def test_an_offer_ends_with_the_login(world):
    key = world.make()
    shipment = world.exchange(key, until="shipment")["shipment"]
    world.b.logout()
    world.b.login()
    world.refuses(world.b, shipment, "offer", key)
    world.works(key)
    receipt = world.exchange(key, until="receipt")["receipt"]
    world.a.logout()
    world.a.login()
    world.refuses(world.a, receipt, "shipment|receipt", key)
    world.works(key)


def test_a_key_nobody_authorised(world):
    key, allowed = world.a.create(), world.make()
    for keys in ([key], [allowed, key], ["mrk-" + "0" * 32]):
        world.refuses(world.a, world.b.offer(world.a.party.region, *keys), "nobody has allowed|no key", key, allowed)
        assert any(each in str(world.a.refusals()[0][-1]) for each in keys)
    offer = world.b.offer(world.a.party.region, key)
    # For another Region is not for this one.
    world.a.replicate(key, "c")
    world.refuses(world.a, offer, "", key)
    world.a.replicate(key, world.b.party.region)
    world.a.replicate(key, world.b.party.region, Withdraw=True)
    world.refuses(world.a, world.b.offer(world.a.party.region, key), "", key)
    world.a.replicate(key, world.b.party.region)
    world.works(key, allowed)


def test_old_messages_about_a_replica_made_anew(home):
    with World(home, names="fg") as world:
        key = world.make()
        old = world.exchange(key)
        world.a.rotate(key)
        old2 = world.exchange(key)
        held_back = world.exchange(key, until="receipt")["receipt"]
        world.b.ask("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
        for one in world.a, world.b:
            one.clock(8 * DAY)
        world.b.ask("RunDue")
        assert world.b.describe(key) is None and world.b.pending(key) == [[world.a.party.region, "deleted"]]
        with world.unchanged(key):
            for message in (*old.values(), *old2.values()):
                again(world.addressee(message), message)
        deleted = world.b.tell("deleted", world.a.party.region, key)
        forgotten = world.a.receive(deleted)
        assert world.b.receive(forgotten) is None and not world.b.pending(key)
        assert world.a.describe(key)["MultiRegionConfiguration"]["ReplicaKeys"] == []
        # It may not come back by itself.
        world.refuses(world.a, world.b.offer(world.a.party.region, key), "", key)
        world.a.replicate(key, world.b.party.region)
        world.works(key)
        world.a.rotate(key)
        with world.unchanged(key):
            for message in (*old.values(), *old2.values(), held_back, deleted, forgotten):
                again(world.addressee(message), message)
        world.works(key)
        assert world.a.describe(key)["KeyVersion"] == 3


def test_old_handovers(world):
    key = world.make()
    world.exchange(key)
    old = []
    for primary, other in ((world.a, world.b), (world.b, world.a)):
        primary.promote(key, other.party.region)
        handover = primary.tell("handover", other.party.region, key)
        old += world.carry(handover, other).values()
        world.agree(key)
        kind = other.describe(key)["MultiRegionConfiguration"]
        assert kind["MultiRegionKeyType"] == "PRIMARY"
        with world.unchanged(key):
            for message in old:
                again(world.addressee(message), message)
    assert kind["Term"] == 3
    world.a.rotate(key)
    world.works(key)


def test_downgraded(worlds, world):
    """Of two Regions that allow suite 2, B always offers it, and nobody can say otherwise in its place."""
    both = worlds[2]
    key = both.make()
    offer = both.exchange(key, until="offer")["offer"]
    content = decode(Message(offer).payload)
    assert content[3] == 2 and len(content[7]) == 1568
    for values in ([*content[:3], 1, *content[4:7], None], [*content[:3], 1, *content[4:]], [*content[:7], None]):
        both.refuses(both.a, swap_content(offer, values), "", key)
    both.works(key)
    # A Region that does not allow the suite does not ship for it.
    made = Region("c2", 2)
    world.a.trust(made.party, made.entry()[2])
    made.trust(world.a.party, world.a.replication_keys())
    plain = world.a.create()
    world.a.replicate(plain, "c2")
    world.refuses(world.a, made.offer(world.a.party, plain), "suite", plain)
    made.suite = 1
    assert made.accept(world.a.receive(made.offer(world.a.party, plain)))


# Trust


def test_rotation_of_signing_keys_and_distrust(world):
    key = world.make()
    old = world.exchange(key)
    before = world.a.replication_keys()
    world.a.rotate_rsk()
    world.a.rotate(key)
    request = world.a.tell("request", world.b.party.region, key)
    world.refuses(world.b, request, "signed", key)
    # Both keys for a while, then the new one alone.
    new = world.a.replication_keys()
    assert new[0] == before[-1] and len(new) == 2
    world.b.trust(world.a.party, new)
    world.works(key)
    world.b.trust(world.a.party, new[1:])
    for message in (old["request"], old["shipment"], old["activate"]):
        world.refuses(world.b, message, "signed", key)
    world.works(key)

    # Distrust stops everything between the two, and nothing else.
    world.a.rotate(key)
    seen = world.exchange(key, until="shipment")
    world.b.distrust(world.a.party.region)
    for message in (seen["request"], seen["shipment"]):
        world.refuses(world.b, message, "trust", key)
    with refused("KMS_R_REPLICATION_REFUSED|KMS_R_NOT_FOUND|KMS_R_INVALID_STATE|CKR_ARGUMENTS_BAD"):
        world.b.offer(world.a.party.region, key)
    world.read(key)
    world.a.distrust(world.b.party.region)
    world.refuses(world.a, seen["offer"], "trust", key)
    with pytest.raises(Error):
        world.a.tell("request", world.b.party.region, key)
    world.read(key)
    world.a.trust(world.b.party, world.b.replication_keys())
    world.b.trust(world.a.party, new)
    world.works(key)
