"""The audit log: what it shows, and what it does when somebody changes it, cannot write it, or dies."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from ceremony import copy_of_home, edit
from conftest import MODULE, PIN, SO_PIN
from peer.audit import Event, Log, parse
from peer.encoding import Refused, encode
from peer.keys import sha384
from peer.token import Token

HERE = pathlib.Path(__file__).parent
CONCLAVE = MODULE.with_name("conclave")
PLAINTEXT = b"nobody finds this in a log"

# Each test's processes begin with this; `kms` is a user's.
BEGINNING = f"""
import ctypes, os, signal, subprocess, sys, time
from cryptoki import Error, Mechanism, Module, ck
from kms import Kms
def edit(statement):
    # Another process: two copies of SQLite in one would drop each other's locks.
    program = "import sqlite3, sys; sqlite3.connect(sys.argv[1], isolation_level=None).execute(sys.argv[2])"
    subprocess.run([sys.executable, "-c", program, database, statement], check=True)
def names(call):
    try:
        call()
    except Error as error:
        return error.name
    return "CKR_OK"
module = Module({str(MODULE)!r})
module.initialize()
slot = module.slot_of("audited")
database = os.environ["AUDITED_DATABASE"]
def open_kms():
    session = module.session(slot)
    session.login({PIN.encode()!r})
    return Kms(session)
kms = open_kms()
plaintext = {PLAINTEXT!r}
"""


class World:
    """A data directory with one token, or a fleet, and processes that use it."""

    def __init__(self, home, mode="on", fleet=None):
        self.home, self.fleet = pathlib.Path(home), fleet
        self.conf = self.home.parent / f"{self.home.name}.toml"
        self.conf.write_text(fleet.entry() if fleet else f'audit = "{mode}"\n')
        self.env = {**os.environ, "CONCLAVE_HOME": str(self.home), "CONCLAVE_CONF": str(self.conf)}

    def conclave(self, *words, status=0):
        done = subprocess.run([str(CONCLAVE), *map(str, words)], env=self.env, capture_output=True, timeout=120, check=False)
        assert done.returncode == status, (words, done.stdout, done.stderr)
        return done.stdout.decode()

    def process(self, body, status=0):
        """Runs a program that begins as above; what it printed."""
        program, env = BEGINNING + body, {**self.env, "AUDITED_DATABASE": str(self.database)}
        done = subprocess.run([sys.executable, "-c", program], env=env, cwd=HERE, capture_output=True, timeout=120,
                              check=False)
        assert done.returncode == status, done.stderr.decode()
        return done.stdout.decode()

    @property
    def database(self):
        if self.fleet:
            return pathlib.Path(self.fleet.database.removeprefix("sqlite:"), "token.db")
        return next(self.home.glob("tokens/*/token.db"))

    def rows(self):
        """As stored: id, instance, bytes."""
        rows = edit(self.database, ["SELECT id, instance, bytes FROM audit ORDER BY id"])
        return [(number, bytes.fromhex(instance), bytes.fromhex(row)) for number, instance, row in rows]

    def head(self, path):
        self.conclave("audit", "head", "--pin", f"pass:{PIN}", "--out", path)
        return path

    def verify(self, head=None):
        """What `conclave audit verify` says, and whether its status fits."""
        words = ["audit", "verify", "--json", *(["--head", head] if head else [])]
        done = subprocess.run([str(CONCLAVE), *map(str, words)], env=self.env, capture_output=True, timeout=120, check=False)
        report = json.loads(done.stdout)
        assert done.returncode == (0 if report["ok"] else 1), done.stderr
        assert report["ok"] == (report["damage_count"] == 0 == len(report["damage"]))
        return report

    def events(self):
        listed = self.conclave("audit", "list", "--pin", f"pass:{PIN}", "--json")
        return json.loads(listed)

    def copy(self):
        return World(copy_of_home(self.home))


@pytest.fixture
def world(tmp_path, own_fleet):
    return made(tmp_path, own_fleet)


def made(path, own_fleet, mode="on"):
    (path / "home").mkdir(mode=0o700)
    if own_fleet:
        return World(path / "home", fleet=own_fleet("audited", audit=mode))
    world = World(path / "home", mode)
    world.conclave("token", "init", "--label", "audited", "--so-pin", f"pass:{SO_PIN}", "--pin", f"pass:{PIN}")
    return world


@pytest.fixture(scope="module")
def written(tmp_path_factory, own_fleet):
    """A log of several chains, closed, and a head of the whole."""
    path = tmp_path_factory.mktemp("written")
    world = made(path, own_fleet)
    world.process("""
key = kms.create()
kms.create_alias("alias/one", key)
for number in range(5):
    kms.decrypt(kms.encrypt("alias/one", plaintext, {"number": str(number)}), {"number": str(number)})
""")
    world.process("""
for number in range(5):
    kms.encrypt("alias/one", plaintext)
""")
    return world, world.head(path / "kept.head")


def test_who_did_what_and_how_it_ended(world):
    said = world.process("""
key = kms.create()
kms.create_alias("alias/shop", key)
blob = kms.encrypt("alias/shop", plaintext, {"customer": "17", "order": "é"})
assert kms.decrypt(blob, {"order": "é", "customer": "17"}) == plaintext
assert names(lambda: kms.decrypt(blob, {"customer": "18"})) != "CKR_OK"
kms.disable(key)
assert names(lambda: kms.encrypt(key, plaintext)) == "KMS_R_DISABLED"
kms.enable(key)
kms.data_key(key, 32, {"for": "a file"})
signing = kms.create("ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
private, public = kms.objects(signing)
ecdsa = Mechanism(ck.CKM_ECDSA_SHA256)
signature = kms.session.sign(ecdsa, private, plaintext)
kms.session.sign(ecdsa, private, plaintext, parts=2)
kms.session.verify(ecdsa, public, plaintext, signature)
assert names(lambda: kms.session.destroy(private)) == "CKR_ACTION_PROHIBITED"
rows = kms.read_audit(room=2000)
assert rows == kms.read_audit() and [row["id"] for row in rows] == sorted(row["id"] for row in rows)
head = kms.audit_head()
report = kms.verify_audit(head)
assert len(head) < 512 and report["ok"] and report["head_checked"] and report["open_count"] == 1, report
assert names(lambda: kms.verify_audit(plaintext)) == "CKR_DATA_INVALID"
print(key, signing)
""")
    key, signing = said.split()
    events = world.events()
    told = [(event["action"], event["outcome"], event["key"]) for event in events]
    for expected in [("CreateKey", "CKR_OK", key), ("CreateAlias", "CKR_OK", key), ("Encrypt", "CKR_OK", key),
                     ("Decrypt", "CKR_OK", key), ("DisableKey", "CKR_OK", key), ("EnableKey", "CKR_OK", key),
                     ("GenerateDataKey", "CKR_OK", key), ("CreateKey", "CKR_OK", signing)]:
        assert expected in told
    assert told.count(("Sign", "CKR_OK", signing)) == 2 and told.count(("Verify", "CKR_OK", signing)) == 1
    assert any(action == "Encrypt" and outcome != "CKR_OK" for action, outcome, _ in told), "a denial"
    assert {event["principal"] for event in events} == {"user"}
    assert len({event["host"] for event in events} - {""}) == 1
    contexts = [event["context"] for event in events if event["action"] in ("Encrypt", "Decrypt")]
    assert contexts[:3] == [{"customer": "17", "order": "é"}] * 2 + [{"customer": "18"}]
    assert all(PLAINTEXT not in row for _, _, row in world.rows())
    assert world.verify()["open_count"] == 0, "the exit closed the chain"
    table = world.conclave("audit", "list", "--pin", f"pass:{PIN}", "--key", key, "--last", "2")
    assert len(table.splitlines()) == 3 and table.startswith("TIME")


def test_an_independent_reader_finds_a_real_log_whole(written):
    world, kept = written
    token = Token(bytes.fromhex(edit(world.database, ["SELECT bytes FROM domain ORDER BY version DESC LIMIT 1"])[0][0]))
    log = Log(token.state.domain, [member.signing for member in token.state.members])
    for _, instance, row in world.rows():
        log.read(instance, row)
    assert log.finish(kept.read_bytes()) == {}
    exported = world.conclave("audit", "export", "--pin", f"pass:{PIN}").splitlines()
    assert [json.loads(line)["hash"] for line in exported] == [sha384(row).hex() for _, _, row in world.rows()]
    with pytest.raises(Refused):
        broken = Log(token.state.domain, [member.signing for member in token.state.members])
        for _, instance, row in world.rows()[1:]:
            broken.read(instance, row)


def test_a_log_that_nobody_touched_is_whole(written):
    world, kept = written
    for head in (None, kept):
        report = world.verify(head)
        assert report["ok"] and report["open_count"] == 0 and report["chains"] == 3 and report["events"] >= 16
    text = world.conclave("audit", "verify", "--head", kept)
    assert "the log is whole, and has all that the head vouches for" in text
    printed = (world if world.fleet else world.copy()).conclave("audit", "head", "--pin", f"pass:{PIN}").strip()
    assert len(bytes.fromhex(printed)) < 512
    # One that was printed is typed in again.
    typed = kept.with_suffix(".hex")
    typed.write_text(kept.read_bytes().hex() + "\n")
    assert world.verify(typed)["head_checked"]


copies = pytest.mark.embedded("copies of the token's files are spoiled; a reader does the same with either's")


def event_ids(world):
    return [number for number, _, row in world.rows() if isinstance(parse(row)[0], Event)]


def change(world, number, make):
    """Puts another row in the place of one."""
    row = next(row for each, _, row in world.rows() if each == number)
    edit(world.database, [f"UPDATE audit SET bytes = x'{make(row).hex()}' WHERE id = {number}"])


def swap(world, one, other):
    edit(world.database, [f"UPDATE audit SET id = -1 WHERE id = {one}", f"UPDATE audit SET id = {one} WHERE id = {other}",
                          f"UPDATE audit SET id = {other} WHERE id = -1"])


DAMAGES = {
    "an outcome": lambda w, ids: change(w, ids[3], lambda row: row.replace(b"CKR_OK", b"CKR_KO")),
    "a context": lambda w, ids: change(w, ids[4], lambda row: row.replace(b"number", b"nummer")),
    "a principal": lambda w, ids: change(w, ids[5], lambda row: row.replace(b"user", b"nobo")),
    "bytes that are no row": lambda w, ids: change(w, ids[5], lambda row: b"\x00"),
    "a record removed": lambda w, ids: edit(w.database, [f"DELETE FROM audit WHERE id = {ids[6]}"]),
    "two records exchanged": lambda w, ids: swap(w, ids[2], ids[3]),
    "a record of another chain": lambda w, ids: edit(w.database, [
        f"UPDATE audit SET instance = x'{bytes(16).hex()}' WHERE id = {ids[3]}"]),
    "a chain removed": lambda w, ids: edit(w.database, [
        "DELETE FROM audit WHERE instance = (SELECT instance FROM audit ORDER BY id LIMIT 1)"]),
    "a chain cut off before another began": lambda w, ids: edit(w.database, [
        "DELETE FROM audit WHERE instance = (SELECT instance FROM audit ORDER BY id LIMIT 1) AND number > 5"]),
    "chains in another order": lambda w, ids: edit(w.database, [
        "UPDATE audit SET id = id + 1000 WHERE instance = (SELECT instance FROM audit ORDER BY id LIMIT 1)"]),
}


@copies
@pytest.mark.parametrize("what", DAMAGES)
def test_whoever_edits_the_database_is_found(written, what):
    world, kept = written
    spoiled = world.copy()
    DAMAGES[what](spoiled, event_ids(spoiled))
    for head in (None, kept):
        report = spoiled.verify(head)
        assert not report["ok"] and all(found["what"] for found in report["damage"])
    assert "the audit log is damaged" not in spoiled.conclave("audit", "verify", status=1)


def rehashed(rows, at, spoil):
    """Rows in which one event is changed and each later one of its chain follows from it, as whoever knows the
    format makes them. Heads, which he cannot sign, are left out from there on."""
    made, chain, previous = [], rows[at][1], None
    for place, (number, instance, row) in enumerate(rows):
        if instance == chain and place >= at:
            parsed = parse(row)[0]
            if not isinstance(parsed, Event):
                continue
            if place == at:
                parsed = spoil(parsed)
            elif previous:
                parsed = parsed._replace(previous=previous)
            row = encode(parsed)
            previous = sha384(row)
        made.append((number, instance, row))
    return made


def put(world, rows):
    edit(world.database, ["DELETE FROM audit", *(
        f"INSERT INTO audit (id, instance, number, bytes) VALUES ({number}, x'{instance.hex()}', {number}, x'{row.hex()}')"
        for number, instance, row in rows)])


@copies
def test_whoever_hashes_the_chain_anew_is_found(written):
    world, kept = written
    rows = world.rows()
    first = next(at for at, row in enumerate(rows) if isinstance(parse(row[2])[0], Event))
    spoiled = world.copy()
    put(spoiled, rehashed(rows, first, lambda event: event._replace(principal="somebody")))
    assert not spoiled.verify()["ok"] and not spoiled.verify(kept)["ok"]
    # With the heads left where they were.
    with_heads = rehashed(rows, first, lambda event: event._replace(outcome="CKR_PIN_INCORRECT"))
    kept_rows = {number: row for number, _, row in with_heads}
    put(spoiled, [(number, instance, kept_rows.get(number, row)) for number, instance, row in rows])
    assert not spoiled.verify()["ok"]


@copies
def test_a_log_that_is_cut_off_or_put_back_is_found_by_a_head_kept_elsewhere(written, tmp_path):
    world, kept = written
    # The last chain is gone, or all of them.
    last = "(SELECT instance FROM audit ORDER BY id DESC LIMIT 1)"
    for statement in (f"DELETE FROM audit WHERE instance = {last}", "DELETE FROM audit"):
        shorter = world.copy()
        edit(shorter.database, [statement])
        assert shorter.verify()["ok"]
        report = shorter.verify(kept)
        assert not report["ok"] and "kept elsewhere" in report["damage"][0]["what"]
    # The whole store is put back to what it was, and the work goes on.
    older = world.copy()
    world_now = world.copy()
    world_now.process("kms.encrypt('alias/one', plaintext)")
    newer = world_now.head(tmp_path / "newer.head")
    older.process("kms.encrypt('alias/one', plaintext)")
    assert older.verify()["ok"] and older.verify(kept)["ok"] and not older.verify(newer)["ok"]
    assert world_now.verify(kept)["ok"] and world_now.verify(newer)["ok"]
    # Somebody drops the last events, and puts right what the store says of how far they came.
    shorter, rows = world.copy(), world.rows()
    seconds = [each for each in rows if each[1] == rows[-4][1]]
    edit(shorter.database, [
        f"DELETE FROM audit WHERE id > {seconds[3][0]}", "DELETE FROM audit_tips",
        f"INSERT INTO audit_tips VALUES (x'{rows[0][1].hex()}', 0, x'{bytes(48).hex()}', 1, 0)",
        f"INSERT INTO audit_tips VALUES (x'{seconds[3][1].hex()}', {parse(seconds[3][2])[0].seq}, "
        f"x'{sha384(seconds[3][2]).hex()}', 0, 1)"])
    shorter.process("kms.encrypt('alias/one', plaintext)")
    assert shorter.verify()["ok"] and not shorter.verify(kept)["ok"]


def test_a_head_that_is_none_is_refused(written, tmp_path):
    world, kept = written
    forged = tmp_path / "forged"
    forged.write_bytes(kept.read_bytes()[:-1] + bytes([kept.read_bytes()[-1] ^ 1]))
    world.conclave("audit", "verify", "--head", forged, status=1)
    forged.write_bytes(b"nothing")
    world.conclave("audit", "verify", "--head", forged, status=1)
    world.conclave("audit", "verify", "--head", tmp_path / "missing", status=3)


def test_a_process_that_was_killed_leaves_its_chain_open(world):
    world.process("""
key = kms.create()
kms.encrypt(key, plaintext)
time.sleep(2)
kms.encrypt(key, plaintext)
os.kill(os.getpid(), signal.SIGKILL)
""", status=-9)
    report = world.verify()
    assert report["ok"] and report["open_count"] == 1
    assert report["open"][0]["seq"] >= 2 and report["open"][0]["unsigned"] == 0, "the thread stored and signed"
    assert "not closed" in world.conclave("audit", "verify")
    world.process("kms.create()")
    assert world.verify()["ok"] and world.verify()["open_count"] == 1


def test_a_forked_child_leaves_its_parents_chain_alone(world):
    world.process("""
key = kms.create()
kms.encrypt(key, plaintext)
child = os.fork()
if child == 0:
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
child = os.fork()
if child == 0:
    module.initialize()
    open_kms().encrypt(key, plaintext)
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
kms.encrypt(key, plaintext)
kms.session.logout()
kms = open_kms()
kms.encrypt(key, plaintext)
module.finalize()
""")
    report = world.verify()
    assert report["ok"] and report["open_count"] == 0 and report["chains"] == 3, report
    assert [event["action"] for event in world.events()].count("Encrypt") == 4


# From now on the log takes no row.
BREAK = "edit(\"CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no room'); END\")\n"
FULL = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(database + '-wal'),) * 2)\n"
USES = """
blob = kms.encrypt(key, plaintext)
handle = kms.objects(signing)[0]
def decrypt():
    output, room = ctypes.create_string_buffer(b"?" * 100), ctypes.c_ulong(100)
    try:
        kms.session.call("KMS_Decrypt", ctypes.c_ulong(0), None, ctypes.c_ulong(0), None, ctypes.c_ulong(0), blob,
                         ctypes.c_ulong(len(blob)), output, ctypes.byref(room))
    finally:
        assert (plaintext in output.raw) == (outcome_of_use == "CKR_OK")
"""
STRICT = """
key, signing = kms.create(), kms.create("ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
""" + USES


@pytest.mark.parametrize("broken", [BREAK, FULL], ids=["no row is taken", "the disk is full"])
def test_strict_gives_nothing_that_is_not_recorded(tmp_path, own_fleet, broken):
    world = made(tmp_path, own_fleet, "strict")
    world.process(STRICT + """
ordinary = kms.session.generate(Mechanism(ck.CKM_AES_KEY_GEN), {ck.CKA_VALUE_LEN: 32})
outcome_of_use = "CKR_OK"
decrypt()
""" + broken + """
outcome_of_use = "refused"
for use in (decrypt, lambda: kms.encrypt(key, plaintext), lambda: kms.data_key(key), lambda: kms.disable(key),
            lambda: kms.create(), lambda: kms.session.sign(Mechanism(ck.CKM_ECDSA_SHA256), handle, plaintext)):
    assert names(use) == "CKR_DEVICE_ERROR", (use, names(use))
assert names(lambda: kms.describe(key)) == "CKR_DEVICE_ERROR"
assert kms.session.get_number(kms.objects(key)[0], ck.CKA_KMS_STATE) == ck.KMS_STATE_ENABLED
kms.session.get(ordinary, ck.CKA_CLASS)
os._exit(0)
""")
    assert "DisableKey" not in {event["action"] for event in world.events()}


def test_strict_goes_on_when_the_log_can_be_written_again(tmp_path, own_fleet):
    world = made(tmp_path, own_fleet, "strict")
    world.process(STRICT + BREAK + """
assert names(lambda: kms.encrypt(key, plaintext)) == "CKR_DEVICE_ERROR"
edit("DROP TRIGGER full")
assert names(lambda: kms.encrypt(key, plaintext)) == "CKR_OK"
assert names(lambda: kms.disable(key)) == "CKR_OK"
""")
    report = world.verify()
    assert report["ok"] and report["open_count"] == 0
    # The one that was refused was made, but not given out.
    assert [event["action"] for event in world.events()].count("Encrypt") == 3


def test_on_keeps_records_that_cannot_be_stored_yet(world):
    world.process(STRICT + BREAK + """
for _ in range(10):
    kms.encrypt(key, plaintext)
time.sleep(2.5)
edit("DROP TRIGGER full")
kms.encrypt(key, plaintext)
""")
    report = world.verify()
    assert report["ok"] and report["open_count"] == 0
    assert [event["action"] for event in world.events()].count("Encrypt") == 12


def test_on_tells_how_many_records_came_before_there_was_a_chain(world):
    world.process(BREAK + """
key = kms.create()
kms.encrypt(key, plaintext)
edit("DROP TRIGGER full")
kms.encrypt(key, plaintext)
""")
    assert world.verify()["ok"] and world.verify()["open_count"] == 0
    told = [(event["action"], event["target"]) for event in world.events()]
    assert told == [("RecordsLost", "2"), ("Encrypt", None)]


def test_the_command_line_leaves_no_chain_open(world):
    login = ["--pin", f"pass:{PIN}"]
    world.conclave("key", "create", "--alias", "files", *login)
    world.conclave("key", "disable", "files", *login)
    assert world.verify()["ok"] and world.verify()["open_count"] == 0
    assert {"CreateKey", "DisableKey"} <= {event["action"] for event in world.events()}


def test_off_records_nothing_but_a_log_can_still_be_read(tmp_path, own_fleet):
    world = made(tmp_path, own_fleet, "off")
    world.process("kms.encrypt(kms.create(), plaintext)")
    assert world.rows() == [] and world.verify()["ok"] and world.events() == []
    kept = world.head(tmp_path / "head")
    assert world.verify(kept)["head_checked"]
