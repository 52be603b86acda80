"""Governing a domain by the command line: the whole ceremony with files that travel between three
operators, one with keys in a file, one with keys in SoftHSM2, one with keys in another Conclave token."""

import json
import os
import pathlib
import pty
import shutil
import subprocess
import time

import pytest

from conftest import MODULE, need, run

pytestmark = pytest.mark.embedded("the ceremony of a token that an SO governs; test_fleet_recovery.py has that of a fleet")

CONCLAVE = MODULE.with_name("conclave")
SOFTHSM = next((path for path in map(pathlib.Path, (
    "/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so")) if path.exists()), None)
PASSPHRASE = "correct horse"
REFUSED = 5


class Ceremony:
    """A token `web` (PINs 87654321 and 1234), and papers in a directory."""

    def __init__(self, home, papers, keys):
        self.home, self.papers, self.keys = home, papers, keys

    def conclave(self, *args, **kwargs):
        return run(CONCLAVE, *args, cwd=self.papers, env={"CONCLAVE_HOME": str(self.home), "PASS": PASSPHRASE}, **kwargs)

    def json(self, *args, **kwargs):
        return json.loads(self.conclave("--json", *args, **kwargs))

    def fails(self, *args, stdin=None):
        """Exit status and what was said to standard error."""
        done = subprocess.run([CONCLAVE, *map(str, args)], capture_output=True, cwd=self.papers, timeout=120,
                              input=stdin or b"", env={**os.environ, "CONCLAVE_HOME": str(self.home), "PASS": PASSPHRASE})
        assert done.returncode != 0, done.stdout
        assert not done.stdout, done.stdout
        return done.returncode, done.stderr.decode()

    def signs(self, person, paper, *more):
        """An operator signs a paper where his keys are, with nothing of the domain but its token."""
        source, home = self.keys[person]
        return run(CONCLAVE, "proposal", "sign", paper, *source, "--yes", *more, cwd=self.papers,
                   env={"CONCLAVE_HOME": str(home), "PASS": PASSPHRASE})

    def execute(self, paper):
        return self.conclave("proposal", "execute", paper, "--yes", "--pin", "pass:1234")

    def does(self, persons, *command):
        """Proposes, signs and executes."""
        paper = f"paper-{time.monotonic_ns()}"
        self.conclave("proposal", "new", *command, "--out", paper)
        for person in persons:
            self.signs(person, paper)
        return self.execute(paper)

    def tool(self, *args):
        return run("pkcs11-tool", "--module", MODULE, "--login", "--pin", "1234", *args,
                   env={"CONCLAVE_HOME": str(self.home)})


@pytest.fixture(scope="module")
def founded(tmp_path_factory):
    """The ceremony up to a domain that three operators govern, two of three."""
    need("pkcs11-tool", "softhsm2-util")
    home, elsewhere, papers = (tmp_path_factory.mktemp(name) for name in ("web", "cleo", "papers"))
    run("softhsm2-util", "--init-token", "--free", "--label", "ben", "--so-pin", "12345678", "--pin", "1111")
    run(CONCLAVE, "token", "init", "--label", "cleo", "--so-pin", "pass:12345678", "--pin", "pass:2222",
        env={"CONCLAVE_HOME": str(elsewhere)})
    keys = {
        "Anna": (["--keys", "anna.pem", "--passphrase", "env:PASS"], papers),
        "Ben": (["--pkcs11", SOFTHSM, "--token-label", "ben", "--label", "operator", "--pin", "pass:1111"], papers),
        "Cleo": (["--pkcs11", MODULE, "--token-label", "cleo", "--label", "operator", "--pin", "pass:2222"], elsewhere),
        "host": (["--keys", "host.pem", "--passphrase", "env:PASS"], papers),
        "Mallory": (["--keys", "mallory.pem", "--passphrase", "env:PASS"], papers),
    }
    c = Ceremony(home, papers, keys)
    c.conclave("token", "init", "--label", "web", "--so-pin", "pass:87654321", "--pin", "pass:1234")
    c.tool("--keypairgen", "--key-type", "EC:prime256v1", "--label", "signing", "--id", "01")
    c.tool("--keygen", "--key-type", "AES:32", "--label", "wrapping", "--id", "02", "--sensitive", "--private")
    assert c.json("token", "list")[0]["governed_by"] == "SO"

    c.conclave("domain", "export", "--out", "domain.token")
    for person, (source, place) in keys.items():
        where = {"CONCLAVE_HOME": str(place), "PASS": PASSPHRASE}
        if "--keys" in source:
            run(CONCLAVE, "operator", "keygen", "--out", *source[1:], cwd=papers, env=where)
        else:
            run(CONCLAVE, "operator", "keygen", *source, cwd=papers, env=where)
        name = "--host" if person == "host" else "--person"
        run(CONCLAVE, "operator", "claim", name, person, "--domain", "domain.token", *source, "--out", f"{person}.claim",
            cwd=papers, env=where)

    found = ["domain", "found", "--region", "eu-1"]
    for person in ("Anna", "Ben", "Cleo"):
        found += ["--operator", f"{person}.claim:officer,operator"]
    said = c.conclave(*found, "--out", "found.proposal")
    assert "for good" in said and '"Cleo"' in said and "eu-1" in said
    c.signs("Anna", "found.proposal")
    # Ben signs a copy of his own; the two are merged.
    c.signs("Ben", "found.proposal", "--out", "ben.proposal")
    c.conclave("proposal", "merge", "found.proposal", "ben.proposal", "--out", "merged.proposal")
    status, said = c.fails("proposal", "execute", "merged.proposal", "--yes", "--so-pin", "pass:87654321")
    assert status == REFUSED and "Cleo" in said
    assert "enough" in c.signs("Cleo", "merged.proposal", "--domain", "domain.token")
    status, said = c.fails("proposal", "execute", "merged.proposal", "--so-pin", "pass:87654321")
    assert status == 2 and "--yes" in said
    status, said = c.fails("proposal", "execute", "merged.proposal", "--yes", "--pin", "pass:1234")
    assert status == 1 and "CKR_USER_NOT_LOGGED_IN" in said and "SO" in said
    c.conclave("proposal", "execute", "merged.proposal", "--yes", "--so-pin", "pass:87654321")
    c.conclave("domain", "export", "--out", "domain.token")
    return c


@pytest.fixture
def ceremony(founded, tmp_path):
    """A copy of the founded domain, with papers of its own."""
    home, papers = tmp_path / "home", tmp_path / "papers"
    shutil.copytree(founded.home, home)
    shutil.copytree(founded.papers, papers)
    keys = {person: (source, papers if place == founded.papers else place)
            for person, (source, place) in founded.keys.items()}
    return Ceremony(home, papers, keys)


def test_who_governs_is_shown(founded):
    assert founded.json("token", "list")[0]["governed_by"] == "operators"
    assert "operators" in founded.conclave("token", "list")
    live, paper = founded.json("domain", "show"), founded.json("domain", "show", "--file", "domain.token")
    assert live["governed_by"] == "operators" and live["region"] == "eu-1"
    assert {operator["person"] for operator in live["operators"]} == {"Anna", "Ben", "Cleo"}
    assert live["hash"] == paper["hash"] and sum(live["records"].values()) == 3
    text = founded.conclave("domain", "show")
    for words in ("its operators", "Anna", "admit host", "decrypt-only", "Recovery: nobody", "Limits: "):
        assert words in text, words


def test_the_so_governs_no_more(founded):
    status, said = founded.fails("key", "trust", "signing", "--so-pin", "pass:87654321", "--yes")
    assert status == REFUSED and "trust-key" in said
    status, said = founded.fails("user", "set-pin", "--so-pin", "pass:87654321", "--new-pin", "pass:5555")
    assert status == 1 and "reset PIN" in said
    founded.tool("--list-objects")
    status, said = founded.fails("domain", "found", "--region", "x", "--operator", "Anna.claim:officer")
    assert status == REFUSED and "already" in said


def test_two_admit_a_host_and_one_does_not(ceremony):
    said = ceremony.conclave("proposal", "new", "admit-host", "--claim", "host.claim", "--out", "admit.proposal")
    assert '"host"' in said and "nobody yet" in said
    said = ceremony.signs("Anna", "admit.proposal", "--domain", "domain.token")
    assert "Lacking" in said
    status, said = ceremony.fails("proposal", "execute", "admit.proposal", "--yes", "--pin", "pass:1234")
    assert status == REFUSED and "quorum not met" in said and "nothing has changed" in said
    assert ceremony.json("domain", "show")["hosts"] == []

    with pytest.raises(AssertionError, match="not one of the domain's operators"):
        ceremony.signs("Mallory", "admit.proposal", "--domain", "domain.token")
    with pytest.raises(AssertionError, match="has signed the command already"):
        ceremony.signs("Anna", "admit.proposal")
    good = (ceremony.papers / "admit.proposal").read_bytes()
    bad = bytearray(good)
    bad[-10] ^= 1
    (ceremony.papers / "forged.proposal").write_bytes(bad)
    status, said = ceremony.fails("proposal", "execute", "forged.proposal", "--yes", "--pin", "pass:1234")
    assert status == REFUSED and "does not verify" in said

    assert "enough" in ceremony.signs("Ben", "admit.proposal", "--domain", "domain.token")
    ceremony.execute("admit.proposal")
    assert [host["name"] for host in ceremony.json("domain", "show")["hosts"]] == ["host"]
    status, said = ceremony.fails("proposal", "execute", "admit.proposal", "--yes", "--pin", "pass:1234")
    assert status == REFUSED and "executed before" in said

    assert "All 2 entries verify" in ceremony.conclave("domain", "history", "--out", "domain.history")
    entries = ceremony.json("domain", "history", "--file", "domain.history", "--domain", "domain.token")
    assert [entry["command"] for entry in entries] == ["found domain", "admit host"]
    assert {signer["person"] for signer in entries[1]["signers"]} == {"Anna", "Ben"}
    history = (ceremony.papers / "domain.history").read_bytes()
    for at in range(40, len(history), len(history) // 25):
        altered = bytearray(history)
        altered[at] ^= 4
        status, said = ceremony.fails("domain", "history", "--file", "-", stdin=bytes(altered))
        assert status in (1, REFUSED) and "does not verify" in said, at


def test_proposals_are_pending_with_the_token(ceremony):
    made = ceremony.json("proposal", "new", "set-rule", "--rule", "reset PIN", "--needs", "officer=2", "--needs",
                         "operator=3", "--valid-for", "1h")
    assert made["command"] == "set rule" and made["not_after"] - made["not_before"] == 3600
    short = made["id"][:12]
    assert "lacking" in ceremony.conclave("proposal", "list")
    sign = ["proposal", "sign", short, "--token", "web", "--yes"]
    assert "Lacking" in ceremony.conclave(*sign, *ceremony.keys["Anna"][0])
    assert "enough" in ceremony.conclave(*sign, *ceremony.keys["Ben"][0])
    [listed] = ceremony.json("proposal", "list")
    assert listed["id"] == made["id"] and listed["quorum_met"]
    assert "ready" in ceremony.conclave("proposal", "list")
    ceremony.execute(short)
    assert ceremony.json("proposal", "list") == []
    [rule] = [rule for rule in ceremony.json("domain", "show")["rules"] if rule["command"] == "reset PIN"]
    assert rule["alternatives"] == [{"officer": 2}, {"operator": 3}]

    # One that came by mail is put there; another is withdrawn.
    request = json.dumps({"command": "set limits", "limits": {"approval": 7200}}).encode()
    ceremony.conclave("proposal", "new", "--request", "-", "--out", "limits.proposal", input=request)
    ceremony.signs("Cleo", "limits.proposal")
    assert "lacking" in ceremony.conclave("proposal", "submit", "limits.proposal")
    [listed] = ceremony.json("proposal", "list")
    assert [signer["person"] for signer in listed["signers"]] == ["Cleo"]
    assert "set limits" in ceremony.conclave("proposal", "show", listed["id"][:8])
    ceremony.conclave("proposal", "withdraw", listed["id"])
    assert ceremony.json("proposal", "list") == []
    status, said = ceremony.fails("proposal", "withdraw", listed["id"])
    assert status == 3 and "proposal list" in said


def test_rotation_resealing_and_what_would_be_lost(ceremony):
    rotate = ceremony.conclave("domain", "rotate", "--retain", "5d", "--out", "rotate.proposal")
    assert "5 days" in rotate
    ceremony.signs("Cleo", "rotate.proposal")
    ceremony.execute("rotate.proposal")
    shown = ceremony.json("domain", "show")
    [old] = [key for key in shown["domain_keys"] if key["retires"]]
    active = next(key["id"] for key in shown["domain_keys"] if key["status"] == "active")
    lost = ceremony.json("domain", "lost", "--key", old["id"][:10], "--pin", "pass:1234")
    first = next(key for key in shown["domain_keys"] if key["status"] != "active" and key != old)
    lost += ceremony.json("domain", "lost", "--key", first["id"], "--pin", "pass:1234")
    assert sorted(entry["label"] for entry in lost) == ["signing", "signing", "wrapping"]
    assert "wrapping" not in ceremony.conclave("domain", "lost"), "no private label without a PIN"
    status, said = ceremony.fails("domain", "lost", "--key", active)
    assert status == REFUSED and "no deadline" in said
    assert "WARNING: domain key" in ceremony.conclave("domain", "show")
    # Before a deadline is set by itself, everything is sealed anew.
    ceremony.does(["Ben"], "schedule-retirement", "--key", first["id"][:8], "--at", "+1h")
    assert "WARNING" not in ceremony.conclave("domain", "show")
    ceremony.does(["Ben"], "rotate-domain-key", "--retain", "5d")
    active = next(key["id"] for key in ceremony.json("domain", "show")["domain_keys"] if key["status"] == "active")
    assert "3 objects sealed" in ceremony.conclave("domain", "reseal", "--pin", "pass:1234")
    again = ceremony.json("domain", "reseal", "--pin", "pass:1234")
    assert (again["sealed"], again["left"], again["domain_key"]) == (0, 0, active)
    assert "Nothing would be lost" in ceremony.conclave("domain", "lost")
    assert "WARNING" not in ceremony.conclave("domain", "show")
    assert ceremony.json("domain", "show")["records"] == {active: 3}


def test_a_standing_order_is_seen_to_by_cron(ceremony):
    assert "Nothing was due" in ceremony.conclave("domain", "rotate", "--due", "--pin", "pass:1234")
    ceremony.does(["Anna", "Ben"], "standing-order", "--interval", "1h", "--window", "30m", "--retain", "30d",
                  "--until", "+300d")
    assert "Standing order: rotate every 1 hour" in ceremony.conclave("domain", "show")
    ceremony.does(["Anna", "Cleo"], "standing-order", "--end")
    ceremony.does(["Anna", "Cleo"], "standing-order", "--interval", "5s", "--window", "4s", "--retain", "30d",
                  "--until", "+300d")
    time.sleep(5.1)
    assert any("due" in warning for warning in ceremony.json("domain", "show")["warnings"])
    said = ceremony.conclave("domain", "rotate", "--due", "--pin", "pass:1234")
    assert "rotat" in said and "VERSION" in said


def test_a_pin_is_reset_with_a_code(ceremony):
    status, said = ceremony.fails("user", "set-pin", "--code", "pass:x", "--new-pin", "pass:5678", "--so-pin",
                                  "pass:87654321")
    assert status == 1 and "reset PIN" in said
    made = ceremony.json("proposal", "new", "reset-pin", "--user", "user", "--code", "new", "--out", "reset.proposal")
    assert len(made["code"]) == 39 and made["code"] not in ceremony.conclave("proposal", "show", "reset.proposal")
    for person in ("Anna", "Ben"):
        ceremony.signs(person, "reset.proposal")
    ceremony.execute("reset.proposal")
    status, said = ceremony.fails("key", "list", "--pin", "pass:1234")
    assert status == 1 and "set-pin" in said
    assert "user has no PIN yet" in ceremony.conclave("domain", "show")
    status, said = ceremony.fails("user", "set-pin", "--code", "pass:wrong", "--new-pin", "pass:5678", "--so-pin",
                                  "pass:87654321")
    assert status == REFUSED and "code" in said
    ceremony.conclave("user", "set-pin", "--code", "stdin", "--new-pin", "pass:5678", "--so-pin", "pass:87654321",
                      input=made["code"].encode() + b"\n")
    assert "wrapping" in ceremony.conclave("key", "list", "--pin", "pass:5678")
    # A named user, whose PIN is set under another's login.
    ceremony.conclave("proposal", "new", "create-user", "--user", "anna", "--code", "pass:let me in, please", "--window", "1h",
                      "--out", "anna.proposal")
    for person in ("Anna", "Cleo"):
        ceremony.signs(person, "anna.proposal")
    ceremony.conclave("proposal", "execute", "anna.proposal", "--yes", "--pin", "pass:5678")
    ceremony.conclave("user", "set-pin", "--user", "anna", "--code", "pass:let me in, please", "--new-pin", "pass:4321",
                      "--pin", "pass:5678")
    ceremony.conclave("domain", "reseal", "--login-as", "anna", "--pin", "pass:4321")


def test_recovery_takes_two_shares_of_three(ceremony):
    status, said = ceremony.fails("domain", "recovery", "begin", "--new-so-pin", "pass:99998888", "--yes")
    assert status == REFUSED and "nobody holds shares" in said
    ceremony.conclave("domain", "recovery", "make", "--threshold", "2", "--out", "shares.proposal")
    for person in ("Anna", "Ben"):
        ceremony.signs(person, "shares.proposal")
    ceremony.execute("shares.proposal")
    assert ceremony.json("domain", "show")["recovery"]["threshold"] == 2
    assert "Recovery: any 2 of" in ceremony.conclave("domain", "show")
    # A rotation after the set was made does not hurt it.
    ceremony.conclave("domain", "rotate", "--out", "rotate.proposal")
    ceremony.signs("Ben", "rotate.proposal")
    ceremony.execute("rotate.proposal")
    ceremony.conclave("domain", "export", "--out", "domain.token")

    # All PINs are forgotten.
    begin = ["domain", "recovery", "begin", "--new-so-pin", "pass:99998888", "--yes"]
    assert "recover" in ceremony.conclave(*begin, "--out", "recover.proposal")
    ceremony.signs("Anna", "recover.proposal")
    give = ["domain", "recovery", "contribute", "--domain", "domain.token", "--command", "recover.proposal", "--yes"]
    status, said = ceremony.fails(*give, *ceremony.keys["Anna"][0], "--out", "early.share")
    assert status == REFUSED and "share stays with you" in said
    ceremony.signs("Ben", "recover.proposal")
    for person in ("Anna", "Ben", "Cleo"):
        source, place = ceremony.keys[person]
        run(CONCLAVE, *give, *source, "--out", f"{person}.share", cwd=ceremony.papers,
            env={"CONCLAVE_HOME": str(place), "PASS": PASSPHRASE})
    finish = ["domain", "recovery", "finish", "--command", "recover.proposal", "--new-so-pin", "pass:99998888", "--yes"]
    status, said = ceremony.fails(*finish, "--share", "Anna.share")
    assert status == REFUSED and "1 shares of 2" in said and "nothing has changed" in said
    ceremony.conclave(*finish, "--share", "Cleo.share", "--share", "Anna.share")

    # The keys are there; the user gets a new PIN as those who govern allow it.
    ceremony.conclave("proposal", "new", "reset-pin", "--user", "user", "--out", "reset.proposal")
    for person in ("Ben", "Cleo"):
        ceremony.signs(person, "reset.proposal")
    ceremony.conclave("proposal", "execute", "reset.proposal", "--yes", "--so-pin", "pass:99998888")
    ceremony.conclave("user", "set-pin", "--so-pin", "pass:99998888", "--new-pin", "pass:1234")
    (ceremony.papers / "data").write_bytes(b"x" * 32)
    ceremony.tool("--sign", "--mechanism", "ECDSA", "--id", "01", "--input-file", ceremony.papers / "data",
                  "--output-file", ceremony.papers / "signature")
    assert "recover domain" in ceremony.conclave("domain", "history")


def test_an_older_copy_is_brought_forward(ceremony, founded, tmp_path):
    ceremony.does(["Anna", "Ben"], "admit-host", "--claim", "host.claim")
    ceremony.conclave("domain", "history", "--out", "domain.history")
    older = Ceremony(tmp_path / "older", ceremony.papers, ceremony.keys)
    shutil.copytree(founded.home, older.home)
    assert older.json("domain", "show")["hosts"] == []
    older.conclave("domain", "import", "--file", "domain.history", "--pin", "pass:1234")
    assert older.json("domain", "show")["hash"] == ceremony.json("domain", "show")["hash"]
    status, said = older.fails("domain", "import", "--file", "domain.history", "--pin", "pass:1234")
    assert status == REFUSED and "nothing newer" in said


@pytest.mark.parametrize("typed, status", [("rotate RSK", 0), ("yes", 1)])
def test_what_is_executed_is_read_and_confirmed(ceremony, typed, status):
    ceremony.conclave("proposal", "new", "rotate-rsk", "--out", "rsk.proposal")
    ceremony.signs("Cleo", "rsk.proposal")
    before = ceremony.json("domain", "show")["version"]
    master, terminal = pty.openpty()
    child = subprocess.Popen([CONCLAVE, "proposal", "execute", "rsk.proposal", "--pin", "pass:1234"], stdin=terminal,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ceremony.papers,
                             env={**os.environ, "CONCLAVE_HOME": str(ceremony.home)})
    os.close(terminal)
    os.write(master, typed.encode() + b"\n")
    out, err = child.communicate(timeout=60)
    os.close(master)
    assert child.returncode == status and b'Type "rotate RSK"' in err and b"replication signing key" in err
    assert (b"Done: rotate RSK" in out) == (status == 0)
    assert ceremony.json("domain", "show")["version"] - before == (status == 0)


def test_papers_travel_through_pipes(ceremony):
    made = subprocess.run([CONCLAVE, "proposal", "new", "rotate-rsk", "--out", "-"], capture_output=True, check=True,
                          cwd=ceremony.papers, env={**os.environ, "CONCLAVE_HOME": str(ceremony.home)})
    assert b"rotate RSK" in made.stderr
    shown = ceremony.conclave("proposal", "show", "-", "--json", input=made.stdout)
    assert json.loads(shown)["command"] == "rotate RSK"
    token = subprocess.run([CONCLAVE, "domain", "export", "--out", "-"], capture_output=True, check=True,
                           env={**os.environ, "CONCLAVE_HOME": str(ceremony.home)}).stdout
    assert "its operators" in ceremony.conclave("domain", "show", "--file", "-", input=token)


@pytest.mark.parametrize("args, status, words", [
    (["proposal", "new"], 2, "--request"),
    (["proposal", "new", "add-operator", "--claim", "nowhere", "--roles", "officer", "--out", "x"], 3, "no file nowhere"),
    (["proposal", "new", "add-operator", "--claim", "domain.token", "--roles", "officer", "--out", "x"], 1, "not a claim"),
    (["proposal", "new", "remove-operator", "--operator", "Zoe", "--out", "x"], 3, "domain show"),
    (["proposal", "new", "set-rule", "--rule", "admit host", "--needs", "officer", "--out", "x"], 2, "officer=2"),
    (["proposal", "new", "rotate-domain-key", "--retain", "soon", "--out", "x"], 2, "90d"),
    (["proposal", "new", "schedule-retirement", "--key", "ffff", "--at", "2027-02-30", "--out", "x"], 2, "2027-01-31"),
    (["proposal", "new", "rotate-rsk", "--valid-for", "999w", "--out", "x"], 1, "valid_for"),
    (["proposal", "execute", "ffffffff", "--yes", "--pin", "pass:1234"], 3, "proposal list"),
    (["proposal", "execute", "domain.token", "--yes", "--pin", "pass:1234"], 1, "CKR_DATA_INVALID"),
    (["domain", "found", "--region", "x", "--operator", "anna.claim"], REFUSED, "already"),
    (["domain", "history", "--file", "domain.token"], 1, "does not verify"),
    (["domain", "rotate", "--due", "--pin", "pass:9999"], 4, "CKR_PIN_INCORRECT"),
    (["domain", "show", "--token", "nowhere"], 3, "token list"),
])
def test_a_failure_says_what_and_what_to_do(ceremony, args, status, words):
    found, said = ceremony.fails(*args)
    assert found == status and words in said, said


COMMANDS = {
    "domain": ["found", "show", "export", "history", "import", "rotate", "reseal", "lost"],
    "domain recovery": ["make", "begin", "contribute", "finish"],
    "operator": ["keygen", "show", "claim", "check", "rekey"],
    "proposal": ["new", "list", "show", "sign", "merge", "submit", "withdraw", "execute"],
    "user": ["set-pin"],
}


@pytest.mark.parametrize("command", [f"{group} {name}" for group, names in COMMANDS.items() for name in names])
def test_help_has_examples(command):
    assert "Example" in run(CONCLAVE, *command.split(), "--help")
