"""A Region that ships and takes keys: who authorises, in which order, and what is refused."""

import copy
import os
import secrets
import time
from dataclasses import dataclass, field

from .encoding import Refused, encode, require
from .keys import new_key, sha256, sha384, spki
from .replication import P384, Ephemeral, Message, Party, Record, Wrapping, answered, make, read_record

OFFER = 600
CLOCKS_DIFFER = 60
# Values of CKA_KMS_ORIGIN; imported material may stay behind.
INSIDE, EXTERNAL = 1, 2


def new_object():
    """An object id: those with the top bit are computed of others."""
    return bytes([secrets.randbelow(128)]) + os.urandom(15)


@dataclass
class Replica:
    """What a primary knows of a replica; without an incarnation it is authorised only."""

    incarnation: bytes | None = None
    held: int = 0
    active: int = 0


@dataclass
class Key:
    """A multi-Region key. `primary` is None where it is the primary itself."""

    properties: Record
    primary: Party | None = None
    incarnation: bytes | None = None
    enabled: bool = True
    # By Party, of a primary.
    replicas: dict = field(default_factory=dict)
    handover: Party | None = None

    def __getattr__(self, name):
        return getattr(object.__getattribute__(self, "properties"), name)

    def set(self, **changes):
        self.properties = self.properties._replace(**changes)

    def activate(self, version):
        """This version encrypts from now on."""
        created = next((created for number, created, _ in self.versions if number == version), None)
        self.set(version=version, rotated=created if version > 1 else None)

    def material(self, version):
        return next(material for number, _, material in self.versions if number == version)


class Region:
    def __init__(self, name, suite=P384):
        self.party, self.suite = Party(name, os.urandom(16)), suite
        self.signing = [new_key()]
        self.trusted, self.keys = {}, {}
        # By id: what was offered from here and waits; ids that were shipped for; by id, what a receipt is awaited for.
        self.offered, self.answered, self.shipped = {}, set(), {}
        self.tombstones = {}

    # Trust

    def trust(self, party, replication_keys):
        self.trusted[party] = replication_keys

    def entry(self):
        """This Region as "trust Region" names it."""
        return [self.party.region, self.party.domain, [spki(key) for key in self.signing]]

    def rotate_signing_key(self):
        self.signing = [self.signing[-1], new_key()]

    def make(self, kind, to, *values):
        return make(self.signing[-1], kind, self.party, to, *values)

    def read(self, data, kind):
        """The message, if a trusted Region sent it to this one."""
        message = Message(data)
        require(message.kind == kind, f"a message of another kind: {message.kind}")
        require(message.to == self.party, "it is for another Region")
        require(message.sender in self.trusted, f"the Region {message.sender.region} is not trusted")
        message.verify(self.trusted[message.sender])
        limit = getattr(message, "not_after", None)
        if limit is not None:
            require(time.time() <= limit + CLOCKS_DIFFER, "it has expired")
            require(limit <= time.time() + OFFER + CLOCKS_DIFFER, "it would be valid for too long")
        return message

    # As the Region of the primary

    def create(self, material, spec="AES_256", usage=1, public_object=None, label=b""):
        """A primary with material made here; its id."""
        now = int(time.time())
        properties = Record(
            f"mrk-{os.urandom(16).hex()}", new_object(), public_object, spec, usage, INSIDE, False, False, label, now,
            1, 1, 1, None, None, None, None, [[1, now, material]],
        )
        self.keys[properties.key_id] = Key(properties)
        return properties.key_id

    def rotate(self, key_id, material):
        """A new version: pending where there are replicas."""
        key = self.primary(key_id)
        require(key.newest == key.version and not key.handover, "a version is pending, or the key is handed over")
        key.set(newest=key.newest + 1, versions=[*key.versions, [key.newest + 1, int(time.time()), material]])
        self._barrier(key)

    def primary(self, key_id):
        require(key_id in self.keys and not self.keys[key_id].primary, f"{key_id} is no primary of this Region")
        return self.keys[key_id]

    def authorise(self, key_id, to):
        self.primary(key_id).replicas[to] = Replica()

    def request(self, to, *keys):
        return self.make("request", to, os.urandom(16), int(time.time()) + OFFER, list(keys))

    def ship(self, data, change=lambda record: record, repeat=False):
        """The shipment for an offer; `change` is what a test does to the records."""
        offer = self.read(data, "offer")
        require(repeat or offer.offer not in self.answered, "the offer was shipped for")
        require(offer.suite <= self.suite, "the suite is not allowed")
        for key_id, _ in offer.keys:
            require(offer.sender in self.primary(key_id).replicas, f"{key_id} is not authorised for that Region")
            require(not self.keys[key_id].handover, f"{key_id} is handed over")
        self.answered.add(offer.offer)
        ephemeral = new_key()
        agreed, ct = answered(ephemeral, offer)
        kids = [sha256(spki(self.signing[-1])), offer.kid]
        wrapping = Wrapping(agreed, offer.suite, self.party, offer.sender, kids, offer.hash, spki(ephemeral), ct)
        records, expected = [], {}
        for index, (key_id, held) in enumerate(offer.keys):
            key, known = self.keys[key_id], self.keys[key_id].replicas[offer.sender]
            record = change(self._record(key, min(held, known.held)))
            records.append([key_id, wrapping.seal(index, len(offer.keys), key_id, encode(record))])
            commitment = wrapping.commitment(key_id, key.object, record.versions)
            expected[key_id] = known.incarnation, key.newest, commitment
        shipment = self.make(
            "shipment", offer.sender, offer.offer, offer.hash, offer.suite, spki(ephemeral), ct, records
        )
        self.shipped[offer.offer] = sha384(shipment), offer.sender, expected
        return shipment

    @staticmethod
    def _record(key, held):
        missing = [version for version in key.versions if version[0] > held]
        return key.properties._replace(versions=missing or key.versions[-1:])

    def take_receipt(self, data):
        """Registers the replicas; the keys."""
        receipt = self.read(data, "receipt")
        expected_hash, replica, expected = self.shipped.get(receipt.offer, (None, None, None))
        require(receipt.shipment_hash == expected_hash, "no shipment that is remembered has this hash")
        require(receipt.sender == replica and set(receipt.key_ids) == set(expected), "of other keys")
        for key_id, incarnation, term, version, newest, commitment in receipt.keys:
            key, (before, shipped, committed) = self.primary(key_id), expected[key_id]
            known = key.replicas.get(replica)
            require(known and known.incarnation in (before, incarnation), "the replica has been made anew since")
            require((term, newest) == (key.term, shipped) and version <= newest, "of another term or version")
            require(commitment == committed, "the commitment is not that of the material shipped")
            require(newest >= key.version, "it lacks the version in use")
        for key_id, incarnation, _, _, newest, _ in receipt.keys:
            known = self.keys[key_id].replicas[replica]
            fresh = known.incarnation != incarnation
            held = newest if fresh else max(known.held, newest)
            self.keys[key_id].replicas[replica] = Replica(incarnation, held, 0 if fresh else known.active)
            self._barrier(self.keys[key_id])
        return receipt.key_ids

    @staticmethod
    def _barrier(key):
        """The newest version is used once every replica holds it."""
        if all(replica.held >= key.newest for replica in key.replicas.values() if replica.incarnation):
            key.activate(key.newest)

    def activate(self, to, *keys):
        found = [(each, self.keys[each]) for each in keys]
        return self.make(
            "activate", to, [[each, key.replicas[to].incarnation, key.term, key.version] for each, key in found]
        )

    def take_activated(self, data):
        message = self.read(data, "activated")
        for key_id, incarnation, term, version in message.keys:
            key = self.primary(key_id)
            known = key.replicas.get(message.sender)
            require(known and known.incarnation == incarnation and term == key.term, "of another replica or term")
            known.active = max(known.active, version)

    def take_deleted(self, data):
        """The answer."""
        message = self.read(data, "deleted")
        for key_id, incarnation, _ in message.keys:
            key = self.keys.get(key_id)
            if key and key.replicas.get(message.sender, Replica()).incarnation == incarnation:
                del key.replicas[message.sender]
        return self.make("forgotten", message.sender, message.keys)

    def hand_over(self, key_id, to):
        key = self.primary(key_id)
        known = key.replicas[to]
        require(known.held == known.active == key.version == key.newest, "that replica is not up to date")
        key.handover, key.incarnation = to, os.urandom(16)
        others = [[party, *vars(replica).values()] for party, replica in key.replicas.items() if party != to]
        details = [key.incarnation, key.version, key.newest, key.rotation, others]
        return self.make("handover", to, [[key_id, known.incarnation, key.term, key.term + 1, to, details]])

    def take_taken(self, data):
        message = self.read(data, "taken")
        for key_id, _, term in message.keys:
            key = self.primary(key_id)
            require(key.handover == message.sender and term == key.term + 1, "it was not handed over")
            key.set(term=term)
            key.primary, key.handover, key.replicas = message.sender, None, {}

    # As the Region of a replica

    def offer(self, to, *keys):
        ephemeral = Ephemeral(new_key(), self.suite)
        offer_id, limit = os.urandom(16), int(time.time()) + OFFER
        rows = [[each, self.keys[each].newest if each in self.keys else 0] for each in keys]
        data = self.make("offer", to, offer_id, self.suite, limit, rows, spki(ephemeral.key), ephemeral.ek)
        self.offered[offer_id] = ephemeral, sha384(data), to, rows, sha256(spki(self.signing[-1])), limit
        return data

    def accept(self, data):
        """Takes the keys of a shipment; the receipt."""
        shipment = self.read(data, "shipment")
        require(shipment.offer in self.offered, "no offer waits for it")
        ephemeral, offer_hash, to, rows, kid, limit = self.offered[shipment.offer]
        require(time.time() <= limit, "the offer has expired")
        require(shipment.sender == to and shipment.offer_hash == offer_hash, "the offer was another's")
        require(shipment.suite == ephemeral.suite, "the suite is not the one offered")
        require([each for each, _ in rows] == shipment.key_ids, "other keys than were offered for")
        wrapping = Wrapping(
            ephemeral.agreed(shipment), shipment.suite, shipment.sender, self.party, [shipment.kid, kid], offer_hash,
            shipment.raka, shipment.ct,
        )
        records = [
            read_record(wrapping.open(index, len(rows), key_id, sealed))
            for index, (key_id, sealed) in enumerate(shipment.keys)
        ]
        for made, (key_id, held) in zip(records, rows):
            self._check_record(made, key_id, held, shipment.sender)
        del self.offered[shipment.offer]
        receipt = []
        for made in records:
            key = self._keep(made, shipment.sender)
            shipped = [version for version in key.versions if version[0] in {v[0] for v in made.versions}]
            commitment = wrapping.commitment(key.key_id, key.object, shipped)
            receipt.append([key.key_id, key.incarnation, key.term, key.version, key.newest, commitment])
        return self.make("receipt", shipment.sender, shipment.offer, shipment.hash, receipt)

    def _check_record(self, made, key_id, held, sender):
        key = self.keys.get(key_id)
        require(made.key_id == key_id, "the record is of another key")
        require(1 <= made.usage <= 4 and made.origin in (INSIDE, EXTERNAL), "an unknown usage or origin")
        if made.versions:
            require(made.versions[0][0] <= held + 1, "versions are missing")
        else:
            require(made.origin == EXTERNAL, "it has no material")
        if key:
            require(key.primary == sender, "it does not come from the primary")
            require(made.term >= key.term and made.newest >= key.newest, "a lower term or version than is held")
            same = ("object", "public_object", "spec", "usage", "origin", "created", "standard_mechanisms")
            require(all(getattr(made, name) == getattr(key, name) for name in same), "it is another key")
            for version, _, material in made.versions:
                known = [each[2] for each in key.versions if each[0] == version]
                require(known in ([], [material]) or made.term > key.term, "other material of a version that is held")

    def _keep(self, made, sender):
        key = self.keys.get(made.key_id)
        if not key:
            key = self.keys[made.key_id] = Key(copy.copy(made), sender, os.urandom(16), enabled=False)
            return key
        held = {version[0]: version for version in [*key.versions, *made.versions]}
        key.set(term=made.term, newest=made.newest, rotation=made.rotation, versions=[held[n] for n in sorted(held)])
        return key

    def take_activate(self, data):
        """The answer."""
        message = self.read(data, "activate")
        for key_id, incarnation, term, version in message.keys:
            key = self.keys.get(key_id)
            require(key and key.primary == message.sender, f"{key_id} has another primary, or is none")
            require(key.incarnation == incarnation and key.term == term, "of another replica or term")
            require(key.version <= version <= key.newest, "that version is older, or not held")
        for key_id, _, _, version in message.keys:
            self.keys[key_id].activate(version)
            self.keys[key_id].enabled = True
        return self.make("activated", message.sender, message.keys)

    def delete(self, key_id):
        """The message that says so."""
        key = self.keys.pop(key_id)
        require(key.primary, "a primary is not deleted so")
        self.tombstones[key_id] = key
        return self.make("deleted", key.primary, [[key_id, key.incarnation, key.term]])

    def take_forgotten(self, data):
        message = self.read(data, "forgotten")
        for key_id, incarnation, term in message.keys:
            key = self.tombstones.get(key_id)
            require(key and (key.incarnation, key.term) == (incarnation, term), "of another replica or term")
            del self.tombstones[key_id]

    def take_handover(self, data):
        """The answer."""
        message = self.read(data, "handover")
        for key_id, incarnation, old, new, primary, details in message.keys:
            key = self.keys.get(key_id)
            require(key and key.primary == message.sender, f"{key_id} has another primary, or is none")
            require(key.incarnation == incarnation and key.term == old and new == old + 1, "of another replica or term")
            require((details is not None) == (primary == self.party), "details are for the new primary only")
            if details:
                require(details.version == details.newest == key.newest == key.version, "of another version")
        taken = []
        for key_id, incarnation, _, new, primary, details in message.keys:
            key = self.keys[key_id]
            key.set(term=new)
            if details:
                key.primary, key.incarnation = None, None
                key.replicas = {other: Replica(*rest) for other, *rest in details.replicas if other != self.party}
                key.replicas[message.sender] = Replica(details.incarnation, details.newest, details.version)
            else:
                key.primary = primary
            taken.append([key_id, incarnation, new])
        return self.make("taken", message.sender, taken)


_HANDLERS = {
    "request": lambda region, data: region.offer(Message(data).sender, *region.read(data, "request").keys),
    "offer": Region.ship,
    "shipment": Region.accept,
    "activate": Region.take_activate,
    "activated": Region.take_activated,
    "deleted": Region.take_deleted,
    "forgotten": Region.take_forgotten,
    "handover": Region.take_handover,
    "taken": Region.take_taken,
}


def receive(region, data):
    """What KMS_ReceiveReplication does: the reply, or None."""
    message = Message(data)
    if message.kind == "receipt":
        keys = region.take_receipt(data)
        due = [each for each in keys if region.keys[each].replicas[message.sender].active < region.keys[each].version]
        return region.activate(message.sender, *due) if due else None
    handler = _HANDLERS.get(message.kind)
    if not handler:
        raise Refused(f"an unknown kind of message: {message.kind}")
    return handler(region, data)
