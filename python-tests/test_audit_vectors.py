"""The peer's reading of the audit log, checked against tests/vectors/audit."""

import datetime
import json
from pathlib import Path

import pytest
from peer import cose
from peer.audit import CONTENT_TYPE, Anchor, Event, Head, Log, Tip, parse
from peer.encoding import Refused, encode
from peer.keys import private_key, sha256, sha384, spki

DIRECTORY = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "audit"
LOG = json.loads((DIRECTORY / "log.json").read_text())
DAMAGE = json.loads((DIRECTORY / "damage.json").read_text())
DOMAIN, SIGNING, KEPT = (bytes.fromhex(LOG[name]) for name in ("domain", "signing", "kept"))
KEY = private_key(bytes.fromhex(LOG["signing_private"]))
ROWS = [(bytes.fromhex(row["instance"]), bytes.fromhex(row["bytes"])) for row in LOG["rows"]]


def verified(rows, *kept):
    log = Log(DOMAIN, [SIGNING])
    for row in rows:
        log.read(*row)
    return log.finish(*kept)


def milliseconds(time):
    moment = datetime.datetime.fromisoformat(time)
    return (moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)) // datetime.timedelta(milliseconds=1)


def of_line(line):
    """The row that a line of JSON tells of, made anew."""
    assert sorted(line) == sorted({
        "anchor": ["domain", "hash", "host", "instance", "row", "seen", "seq", "signer", "state", "time"],
        "event": ["action", "context", "hash", "host", "instance", "key", "outcome", "previous", "principal", "row",
                  "seq", "target", "time"],
        "head": ["closed", "hash", "instance", "previous", "row", "seq", "signature", "signer", "time"],
    }[line["row"]])
    at = milliseconds(line["time"])
    unhex = {name: bytes.fromhex(value) for name, value in line.items()
             if name in ("instance", "domain", "state", "signer", "previous")}
    if line["row"] == "anchor":
        seen = [Tip(bytes.fromhex(tip["instance"]), tip["seq"], bytes.fromhex(tip["hash"])) for tip in line["seen"]]
        return encode(Anchor(line["seq"], at, unhex["instance"], unhex["domain"], unhex["state"], unhex["signer"],
                             line["host"], seen))
    if line["row"] == "event":
        return encode(Event(line["seq"], at, *[line[name] for name in (
            "principal", "host", "action", "key", "target", "context", "outcome")], unhex["previous"]))
    payload = encode(Head(unhex["instance"], line["seq"], unhex["previous"], at, line["closed"]))
    row = cose.sign1(KEY, CONTENT_TYPE, DOMAIN, payload)
    assert row.endswith(bytes.fromhex(line["signature"])) and sha256(spki(KEY)) == unhex["signer"]
    return row


def test_rows_are_made():
    assert spki(KEY) == SIGNING
    for (instance, row), vector in zip(ROWS, LOG["rows"]):
        line = vector["line"]
        assert of_line(line) == row
        assert (bytes.fromhex(line["hash"]), bytes.fromhex(line["instance"])) == (sha384(row), instance)


def test_the_log_is_whole():
    open_chains = verified(ROWS, KEPT)
    found = [{"instance": instance.hex(), "host": chain.host, "seq": chain.seq, "at": chain.at,
              "unsigned": chain.unsigned} for instance, chain in open_chains.items()]
    assert found == LOG["open"]
    assert len({instance for instance, _ in ROWS}) == 4 and len(KEPT) < 300


@pytest.mark.parametrize("case", [pytest.param(case, id=case["what"]) for case in DAMAGE])
def test_damage(case):
    rows = [ROWS[row] if type(row) is int else (bytes.fromhex(row["instance"]), bytes.fromhex(row["bytes"]))
            for row in case["rows"]]
    with pytest.raises(Refused):
        verified(rows, KEPT)


def test_every_byte_of_every_signed_row_counts():
    for number, (instance, row) in enumerate(ROWS):
        for at in range(number % 37, len(row), 37):
            changed = bytearray(row)
            changed[at] ^= 1 << at % 8
            with pytest.raises(Refused):
                verified([*ROWS[:number], (instance, bytes(changed)), *ROWS[number + 1:]], KEPT)


def test_a_rewritten_log_lacks_signatures():
    """Whoever can write the store can hash everything anew, but cannot sign."""
    names, rows = {}, []
    for instance, row in ROWS:
        parsed, _, _ = parse(row)
        changed = row
        if isinstance(parsed, Event) and not names:
            changed = encode(parsed._replace(principal="nobody"))
        for old, new in names.items():
            changed = changed.replace(old, new)
        if changed != row:
            names[sha384(row)] = sha384(changed)
        rows.append((instance, changed))
    with pytest.raises(Refused, match="signature"):
        verified(rows)
