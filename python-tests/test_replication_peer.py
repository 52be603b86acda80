"""Replication between the module and the peer's own code, each as the Region that ships and as the one that takes."""

import hmac
import os
import time

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from managed import DAY, refused
from material import MATERIAL
from peer.encoding import Refused
from peer.envelope import name_of, open_envelope, seal_envelope
from peer.region import Region, new_object, receive
from peer.replication import Message, make
from regions import Elsewhere

pytestmark = [pytest.mark.usefixtures("regions_of"), pytest.mark.one_store("the peer's half of an exchange has no store")]

REFUSED = "KMS_R_REPLICATION_REFUSED"
CONTEXT = {"room": "4"}
# CKA_KMS_USAGE of what the peer makes.
USAGES = {"AES_256": 1, "ECC_NIST_P256": 2, "HMAC_256": 3}


class Pair:
    """A Region of the module and one of the peer, which trust each other."""

    def __init__(self, home, suite):
        self.module = Elsewhere(home, f"eu-{suite}", suite)
        self.peer = Region(f"us-{suite}", suite)
        self.suite = suite
        self.peer.trust(self.module.party, self.module.replication_keys())
        self.module.trust(self.peer.party, self.peer.entry()[2])

    def talk(self, message, to_peer):
        """Carries a message and all answers; the messages by kind."""
        seen = {}
        while message:
            seen[Message(message).kind] = message
            message = receive(self.peer, message) if to_peer else self.module.receive(message)
            to_peer = not to_peer
        return seen

    def made_by_peer(self, *specs, versions=1):
        """Keys that the peer has, authorised for the module's Region."""
        keys = []
        for spec in specs:
            public_object = new_object() if spec.startswith("ECC") else None
            key = self.peer.create(MATERIAL[spec](), spec, USAGES[spec], public_object, b"made elsewhere")
            for _ in range(versions - 1):
                self.peer.rotate(key, os.urandom(32))
            self.peer.authorise(key, self.module.party)
            keys.append(key)
        return keys

    def shipped_by_peer(self, *keys):
        return self.talk(self.peer.request(self.module.party, *keys), to_peer=False)

    def made_by_module(self, *specs, **members):
        usages = {"AES_256": "ENCRYPT_DECRYPT", "ECC_NIST_P256": "SIGN_VERIFY", "HMAC_256": "GENERATE_VERIFY_MAC"}
        keys = [self.module.create(spec, KeyUsage=usages[spec], **members) for spec in specs]
        for key in keys:
            self.module.replicate(key, self.peer.party.region)
        return keys

    def shipped_by_module(self, *keys):
        return self.talk(self.module.tell("request", self.peer.party.region, *keys), to_peer=True)

    def both_read(self, key, version):
        """That each reads what the other encrypts with this version."""
        held = self.peer.keys[key]
        blob = self.module.encrypt(key, b"of the module", CONTEXT)
        assert name_of(blob) == (held.object, version)
        assert open_envelope(blob, held.material(version), key, held.object, version, CONTEXT) == b"of the module"
        assert self.module.decrypt(self.sealed(key, version), CONTEXT) == b"of the peer"

    def sealed(self, key, version):
        held = self.peer.keys[key]
        return seal_envelope(b"of the peer", held.material(version), key, held.object, version, CONTEXT)

    def both_sign(self, key):
        private = serialization.load_der_private_key(self.peer.keys[key].material(1), None)
        r, s = utils.decode_dss_signature(private.sign(b"data", ec.ECDSA(hashes.SHA256())))
        raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        assert self.module.verify(key, "CKM_ECDSA_SHA256", b"data", raw)
        assert not self.module.verify(key, "CKM_ECDSA_SHA256", b"other data", raw)
        raw = self.module.sign(key, "CKM_ECDSA_SHA256", b"data")
        r, s = (int.from_bytes(half, "big") for half in (raw[:32], raw[32:]))
        private.public_key().verify(utils.encode_dss_signature(r, s), b"data", ec.ECDSA(hashes.SHA256()))

    def both_authenticate(self, key):
        expected = hmac.digest(self.peer.keys[key].material(1), b"data", "sha256")
        assert self.module.sign(key, "CKM_SHA256_HMAC", b"data") == expected


@pytest.fixture(scope="module", params=[1, 2], ids=["P-384", "ML-KEM"])
def pair(request, home):
    made = Pair(home, request.param)
    yield made
    made.module.close()


def configuration(pair, key):
    return pair.module.describe(key)["MultiRegionConfiguration"]


def test_the_module_takes_keys(pair):
    aes, ecc, mac = keys = pair.made_by_peer(*USAGES)
    for _ in range(2):
        pair.peer.rotate(aes, os.urandom(32))
    offer = pair.module.receive(pair.peer.request(pair.module.party, *keys))
    assert Message(offer).suite == pair.suite
    shipment = pair.peer.ship(offer)
    pair.module.accept(shipment)
    receipt = pair.module.confirm(shipment)
    assert pair.module.confirm(shipment) == receipt == pair.module.receive(shipment)
    pair.peer.take_receipt(receipt)
    assert {pair.module.describe(key)["KeyState"] for key in keys} == {"Creating"}
    with refused("KMS_R_INVALID_STATE"):
        pair.module.encrypt(aes, b"too early")
    pair.peer.take_activated(pair.module.receive(pair.peer.activate(pair.module.party, *keys)))
    for key in keys:
        said = pair.module.describe(key)
        assert (said["KeyState"], said["MultiRegion"], said["Owner"]) == ("Enabled", True, "user")
        assert configuration(pair, key)["MultiRegionKeyType"] == "REPLICA"
        assert configuration(pair, key)["PrimaryKey"] == {"Region": pair.peer.party.region}
        assert pair.peer.keys[key].replicas[pair.module.party].active == pair.peer.keys[key].version
        with refused("KMS_R_UNSUPPORTED"):
            pair.module.ask("RotateKey", KeyId=key)
    pair.both_read(aes, 3)
    for version in 1, 2:
        assert pair.module.decrypt(pair.sealed(aes, version), CONTEXT) == b"of the peer"
    pair.both_sign(ecc)
    pair.both_authenticate(mac)


def test_the_module_takes_new_versions(pair):
    [key] = pair.made_by_peer("AES_256")
    pair.shipped_by_peer(key)
    pair.peer.rotate(key, os.urandom(32))
    offer = pair.module.receive(pair.peer.request(pair.module.party, key))
    assert Message(offer).keys == [[key, 1]]
    pair.peer.take_receipt(pair.module.receive(pair.peer.ship(offer)))
    # It decrypts, and does not encrypt yet.
    assert pair.module.decrypt(pair.sealed(key, 2), CONTEXT) == b"of the peer"
    pair.both_read(key, 1)
    assert configuration(pair, key)["NewestVersion"] == 2
    activate = pair.peer.activate(pair.module.party, key)
    pair.peer.take_activated(pair.module.receive(activate))
    pair.both_read(key, 2)
    assert pair.module.describe(key)["KeyVersion"] == 2
    assert pair.module.decrypt(pair.sealed(key, 1), CONTEXT) == b"of the peer"
    # With nothing new it is an exchange like any other.
    pair.shipped_by_peer(key)
    pair.both_read(key, 2)


def test_the_module_ships_keys(pair):
    aes, ecc, mac = keys = pair.made_by_module(*USAGES)
    assert not configuration(pair, aes)["ReplicaKeys"][0]["Registered"]
    for _ in range(2):
        # No replica is registered: a rotation waits for nobody.
        pair.module.ask("RotateKey", KeyId=aes)
    seen = pair.shipped_by_module(*keys)
    assert list(seen) == ["request", "offer", "shipment", "receipt", "activate", "activated"]
    assert set(Message(seen["shipment"]).key_ids) == set(keys)
    [replica] = configuration(pair, aes)["ReplicaKeys"]
    assert (replica["Registered"], replica["Version"], replica["ActiveVersion"]) == (True, 3, 3)
    assert not any(pair.module.pending(key) for key in keys)
    said = pair.peer.keys[aes]
    assert (said.term, said.version, said.newest, said.spec, said.origin) == (1, 3, 3, "AES_256", 1)
    assert [version for version, _, _ in said.versions] == [1, 2, 3]
    pair.both_read(aes, 3)
    assert pair.module.decrypt(pair.sealed(aes, 1), CONTEXT) == b"of the peer"
    pair.both_sign(ecc)
    pair.both_authenticate(mac)


def test_the_module_ships_new_versions(pair):
    [key] = pair.made_by_module("AES_256")
    pair.shipped_by_module(key)
    pair.module.ask("RotateKey", KeyId=key)
    pair.both_read(key, 1)
    with refused("KMS_R_INVALID_STATE"):
        pair.module.ask("RotateKey", KeyId=key)
    assert pair.module.pending(key) == [[pair.peer.party.region, "request"]]
    seen = pair.shipped_by_module(key)
    assert Message(seen["offer"]).keys == [[key, 1]]
    assert [(row[0], row[3]) for row in Message(seen["activate"]).keys] == [(key, 2)]
    pair.both_read(key, 2)
    assert pair.module.decrypt(pair.sealed(key, 1), CONTEXT) == b"of the peer"
    assert [version for version, _, _ in pair.peer.keys[key].versions] == [1, 2]


def test_the_primary_moves_to_the_module_and_back(pair):
    [key] = pair.made_by_peer("AES_256")
    pair.shipped_by_peer(key)
    handover = pair.peer.hand_over(key, pair.module.party)
    taken = pair.module.receive(handover)
    pair.peer.take_taken(taken)
    said = configuration(pair, key)
    assert (said["MultiRegionKeyType"], said["Term"]) == ("PRIMARY", 2)
    assert [each["Region"] for each in said["ReplicaKeys"]] == [pair.peer.party.region]
    pair.module.ask("RotateKey", KeyId=key)
    pair.shipped_by_module(key)
    pair.both_read(key, 2)

    pair.module.promote(key, pair.peer.party.region)
    assert pair.module.describe(key)["KeyState"] == "Updating"
    with refused("KMS_R_INVALID_STATE"):
        pair.module.ask("RotateKey", KeyId=key)
    seen = pair.talk(pair.module.tell("handover", pair.peer.party.region, key), to_peer=True)
    assert list(seen) == ["handover", "taken"]
    assert configuration(pair, key)["MultiRegionKeyType"] == "REPLICA" and pair.peer.keys[key].term == 3
    assert pair.module.describe(key)["KeyState"] == "Enabled"
    pair.peer.rotate(key, os.urandom(32))
    pair.shipped_by_peer(key)
    pair.both_read(key, 3)
    # The handovers of before change nothing.
    before = pair.module.describe(key)
    for old in handover, taken:
        pair.module.outcome(old)
    assert pair.module.describe(key) == before
    pair.both_read(key, 3)


def test_a_primary_waits_for_its_replica_to_be_deleted(pair):
    [key] = pair.made_by_module("AES_256")
    pair.shipped_by_module(key)
    pair.module.ask("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
    assert pair.module.describe(key)["KeyState"] == "PendingReplicaDeletion"
    deleted = pair.peer.delete(key)
    pair.peer.take_forgotten(pair.module.receive(deleted))
    said = pair.module.describe(key)
    assert said["KeyState"] == "PendingDeletion" and abs(said["DeletionDate"] - time.time() - 7 * DAY) < 100
    assert said["MultiRegionConfiguration"]["ReplicaKeys"] == [] and pair.peer.tombstones == {}
    # A lost answer is asked for again.
    assert Message(pair.module.receive(deleted)).kind == "forgotten"


# What a Region of bad faith does, whose signatures are good


def hostile(pair, change, *specs):
    """A shipment whose records the peer changed."""
    [key] = pair.made_by_peer(*specs or ["AES_256"])
    offer = pair.module.offer(pair.peer.party.region, key)
    return key, pair.peer.ship(offer, change)


def again(version):
    return [version, 0, os.urandom(32)]


CHANGES = {
    "of another id": lambda record: record._replace(key_id=f"mrk-{'0' * 32}"),
    "of two halves with one name": lambda record: record._replace(public_object=record.object),
    "without material": lambda record: record._replace(versions=[]),
    "with a gap": lambda record: record._replace(newest=3, versions=[*record.versions, again(3)]),
    "with a version twice": lambda record: record._replace(newest=2, versions=[*record.versions, *record.versions]),
    "in the wrong order": lambda record: record._replace(newest=2, versions=[again(2), *record.versions]),
    "with too many versions": lambda record: record._replace(versions=[*record.versions, again(2)]),
    "with too few versions": lambda record: record._replace(newest=2),
    "active beyond the newest": lambda record: record._replace(version=2),
    "of version 0": lambda record: record._replace(version=0),
    "of a name that is computed": lambda record: record._replace(object=bytes([0x80]) + bytes(15)),
    "of a term that leaves no room for emergencies": lambda record: record._replace(term=1 << 63),
    "of no term": lambda record: record._replace(term=0),
    "of an unknown spec": lambda record: record._replace(spec="AES_512"),
    "of another spec than its material": lambda record: record._replace(spec="ECC_NIST_P256", usage=2),
    "of no usage": lambda record: record._replace(usage=9),
    "of a usage that its spec does not have": lambda record: record._replace(usage=2),
    "of no origin": lambda record: record._replace(origin=0),
    "with a public half": lambda record: record._replace(public_object=new_object()),
    "with material too short": lambda record: record._replace(versions=[[1, 0, bytes(31)]]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_record_is_refused(pair, name):
    key, shipment = hostile(pair, CHANGES[name])
    with refused(REFUSED):
        pair.module.receive(shipment)
    assert pair.module.describe(key) is None
    # The honest one is taken.
    pair.shipped_by_peer(key)
    pair.both_read(key, 1)


def test_a_record_takes_no_other_key_s_place(pair):
    """The object id is the sender's to choose, and others may have it here."""
    taken = pair.module.create("AES_256")
    blob = pair.module.encrypt(taken, b"kept")
    key, shipment = hostile(pair, lambda record: record._replace(object=name_of(blob)[0]))
    with refused(REFUSED):
        pair.module.receive(shipment)
    assert pair.module.decrypt(blob) == b"kept" and pair.module.describe(key) is None
    pair.shipped_by_peer(key)
    pair.both_read(key, 1)


UPDATES = {
    "other material": lambda record: record._replace(versions=[again(1)]),
    "a lower term": lambda record: record._replace(term=1),
    "another spec": lambda record: record._replace(spec="HMAC_256", usage=3),
    "another object": lambda record: record._replace(object=new_object()),
    "another creation": lambda record: record._replace(created=1),
}


@pytest.mark.parametrize("name", UPDATES)
def test_an_update_is_refused(pair, name):
    [key] = pair.made_by_peer("AES_256")
    pair.peer.keys[key].set(term=2)
    pair.shipped_by_peer(key)
    shipment = pair.peer.ship(pair.module.offer(pair.peer.party.region, key), UPDATES[name])
    before = pair.module.describe(key)
    with refused(REFUSED):
        pair.module.receive(shipment)
    assert pair.module.describe(key) == before
    pair.peer.rotate(key, os.urandom(32))
    pair.shipped_by_peer(key)
    pair.both_read(key, 2)


def resigned(pair, data, **changes):
    """The peer's message, with other values in it."""
    message = Message(data)
    values = {**{name: vars(message)[name] for name in list(vars(message)) if name in message.fields}, **changes}
    return make(pair.peer.signing[-1], message.kind, message.sender, message.to, *values.values())


def test_a_shipment_is_for_its_offer(pair):
    keys = pair.made_by_peer("AES_256", "AES_256")
    other = Message(pair.peer.ship(pair.module.offer(pair.peer.party.region, *keys)))
    shipment = pair.peer.ship(pair.module.offer(pair.peer.party.region, *keys))
    (first, one), (second, two) = Message(shipment).keys
    changes = [
        {"keys": [[first, two], [second, one]]}, {"keys": [[second, two], [first, one]]}, {"keys": [[first, one]]},
        {"keys": other.keys}, {"offer": other.offer}, {"offer_hash": other.offer_hash}, {"raka": other.raka},
        {"offer": os.urandom(16)}, {"suite": 3 - pair.suite, "ct": bytes(1568) if pair.suite == 1 else None},
        {"offer": other.offer, "offer_hash": other.offer_hash},
    ]
    if pair.suite == 2:
        changes += [{"ct": other.ct}, {"ct": None}, {"suite": 1}]
    for change in changes:
        with refused(REFUSED):
            pair.module.receive(resigned(pair, shipment, **change))
        assert [pair.module.describe(key) for key in keys] == [None, None], change
    receive(pair.peer, pair.module.receive(pair.peer.ship(pair.module.offer(pair.peer.party.region, *keys))))
    pair.shipped_by_peer(*keys)
    pair.both_read(first, 1)


def test_a_receipt_says_what_was_shipped(pair):
    [key] = pair.made_by_module("AES_256")
    offer = pair.peer.offer(pair.module.party, key)
    receipt = pair.peer.accept(pair.module.receive(offer))
    [row] = Message(receipt).keys
    good = dict(zip(["key", "incarnation", "term", "version", "newest", "commitment"], row))
    changes = [{"keys": [list({**good, **change}.values())]} for change in [
        {"commitment": bytes(48)}, {"newest": 2}, {"term": 2}, {"term": 0}, {"newest": 0},
        {"key": f"mrk-{'1' * 32}"},
    ]]
    for change in [*changes, {"shipment_hash": bytes(48)}, {"offer": bytes(16)}]:
        with refused(REFUSED):
            pair.module.receive(resigned(pair, receipt, **change))
        assert not configuration(pair, key)["ReplicaKeys"][0]["Registered"], change
    assert Message(pair.module.receive(receipt)).kind == "activate"
    assert configuration(pair, key)["ReplicaKeys"][0]["Registered"]


def test_an_activation_is_of_the_replica_as_it_is(pair):
    [key] = pair.made_by_peer("AES_256")
    pair.shipped_by_peer(key)
    pair.peer.rotate(key, os.urandom(32))
    pair.peer.take_receipt(pair.module.receive(pair.peer.ship(pair.module.offer(pair.peer.party.region, key))))
    activate = pair.peer.activate(pair.module.party, key)
    [[_, incarnation, term, version]] = Message(activate).keys
    for row in [[key, bytes(16), term, version], [key, incarnation, 9, version], [key, incarnation, 0, version],
                [key, incarnation, term, 3], [key, incarnation, term, 0], [f"mrk-{'1' * 32}", incarnation, term, version]]:
        with refused(REFUSED):
            pair.module.receive(resigned(pair, activate, keys=[row]))
        pair.both_read(key, 1)
    pair.peer.take_activated(pair.module.receive(activate))
    pair.both_read(key, 2)


def test_no_material_is_shipped_that_was_imported(pair):
    for replicate, state in (False, "Enabled"), (True, "Enabled"):
        key = pair.module.create("AES_256", Origin="EXTERNAL", ReplicateImportedMaterial=replicate)
        pair.module.bring(key, bytes(range(32)))
        pair.module.replicate(key, pair.peer.party.region)
        pair.shipped_by_module(key)
        held = pair.peer.keys[key]
        assert held.replicate_imported == replicate and pair.module.describe(key)["KeyState"] == state
        assert [material for _, _, material in held.versions] == ([bytes(range(32))] if replicate else [])


def test_the_peer_refuses_too(pair):
    """What the module sends is for one Region, one offer and one key."""
    [key] = pair.made_by_module("AES_256")
    offer = pair.peer.offer(pair.module.party, key)
    shipment = pair.module.receive(offer)
    stranger = Region(pair.peer.party.region, pair.suite)
    stranger.trust(pair.module.party, pair.module.replication_keys())
    with pytest.raises(Refused):
        stranger.accept(shipment)
    changed = bytearray(shipment)
    changed[len(changed) // 2] ^= 1
    with pytest.raises(Refused):
        pair.peer.accept(bytes(changed))
    pair.talk(pair.peer.accept(shipment), to_peer=False)
    pair.both_read(key, 1)
