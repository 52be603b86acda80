"""The peer's reading of messages and exchanges between Regions, checked against tests/vectors/replication."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM1024PrivateKey
from peer.encoding import Refused, encode
from peer.keys import private_key, sha256, sha384, spki
from peer.replication import Ephemeral, Message, Wrapping, make, read_record

DIRECTORY = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "replication"


def vectors(name):
    path = DIRECTORY / name
    return [pytest.param(each, id=f"{each.get('kind', each.get('suite'))}-{n}")
            for n, each in enumerate(json.loads(path.read_text()))]


def unhex(value):
    """With bytes for what is hex: ids of keys and names of Regions are not."""
    if isinstance(value, dict):
        return {name: unhex(each) for name, each in value.items()}
    if isinstance(value, list):
        return [unhex(each) for each in value]
    try:
        return bytes.fromhex(value) if isinstance(value, str) and len(value) >= 32 else value
    except ValueError:
        return value


def check_message(vector):
    vector = unhex(vector)
    message = Message(vector["message"])
    key = private_key(vector["rsk_private"])
    assert (message.kind, message.payload, message.hash) == (vector["kind"], vector["payload"], vector["hash"])
    assert [list(message.sender), list(message.to)] == [vector["from"], vector["to"]]
    assert encode([vars(message)[name] for name in message.fields]) == encode(vector["fields"])
    assert message.kid == vector["kid"] == sha256(spki(key))
    message.verify([spki(key)])
    # Made again, byte for byte.
    assert make(key, message.kind, message.sender, message.to, *vector["fields"]) == message.data
    return message


@pytest.mark.parametrize("vector", vectors("messages.json"))
def test_messages(vector):
    check_message(vector)


@pytest.mark.parametrize("vector", vectors("messages.json"))
def test_changed_messages_are_refused(vector):
    message = Message(bytes.fromhex(vector["message"]))
    key = spki(private_key(bytes.fromhex(vector["rsk_private"])))
    for at in range(len(message.data)):
        changed = bytearray(message.data)
        changed[at] ^= 1 << at % 8
        with pytest.raises(Refused):
            Message(bytes(changed)).verify([key])


@pytest.mark.parametrize("vector", vectors("exchange.json"))
def test_exchanges(vector):
    offer, shipment, receipt = (check_message(vector[kind]) for kind in ("offer", "shipment", "receipt"))
    records, suite = vector["records"], vector["suite"]
    vector = unhex({name: each for name, each in vector.items() if name not in ("records", "suite")})
    assert offer.suite == shipment.suite == suite and shipment.offer_hash == offer.hash
    assert receipt.shipment_hash == shipment.hash and offer.offer == shipment.offer == receipt.offer

    ephemeral = Ephemeral(private_key(vector["rakb_private"]), 1)
    if suite == 2:
        ephemeral.decapsulation = MLKEM1024PrivateKey.from_seed_bytes(vector["mlkem_seed"])
        assert ephemeral.decapsulation.decapsulate(shipment.ct) == vector["mlkem_shared"]
    assert (offer.rakb, offer.ek) == (spki(ephemeral.key), ephemeral.ek)
    assert shipment.raka == spki(private_key(vector["raka_private"]))
    agreed = ephemeral.agreed(shipment)
    kids = [shipment.kid, offer.kid]
    rest = [kids, offer.hash, shipment.raka, shipment.ct]
    wrapping = Wrapping(agreed, suite, shipment.sender, shipment.to, *rest)
    assert wrapping.transcript == vector["transcript"]
    assert (wrapping.rwk, wrapping.ck) == (vector["rwk"], vector["ck"])

    for index, expected in enumerate(records):
        key_id, (named, sealed) = expected["key_id"], shipment.keys[index]
        plaintext = wrapping.open(index, len(records), key_id, sealed)
        assert (named, sealed.hex(), plaintext.hex()) == (key_id, expected["sealed"], expected["plaintext"])
        salt = bytes.fromhex(expected["salt"])
        assert wrapping.seal(index, len(records), key_id, plaintext, salt) == sealed
        record = read_record(plaintext)
        assert (record.key_id, record.object.hex(), encode(record)) == (key_id, expected["object"], plaintext)
        digests = [[version, sha384(material).hex()] for version, _, material in record.versions]
        assert digests == expected["versions"]
        commitment = wrapping.commitment(key_id, record.object, record.versions)
        assert commitment == receipt.keys[index][-1] == bytes.fromhex(expected["commitment"])
        # In another place, of another count or key, or of an exchange that differs in anything.
        others = [Wrapping(agreed[:-1] + b"?", suite, shipment.sender, shipment.to, *rest),
                  Wrapping(agreed, 3 - suite, shipment.sender, shipment.to, *rest),
                  Wrapping(agreed, suite, shipment.to, shipment.sender, *rest),
                  Wrapping(agreed, suite, shipment.sender, shipment.to, kids[::-1], *rest[1:]),
                  Wrapping(agreed, suite, shipment.sender, shipment.to, kids, shipment.hash, *rest[2:])]
        places = [(wrapping, index + 1, len(records), key_id), (wrapping, index, len(records) + 1, key_id),
                  (wrapping, index, len(records), "mrk-" + "0" * 32),
                  *[(other, index, len(records), key_id) for other in others]]
        for other, *place in places:
            with pytest.raises(Refused):
                other.open(*place, sealed)
