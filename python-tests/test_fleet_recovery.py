"""A fleet that lost every HSM comes back: by its operators' shares and the command line, as the README says. Its keys
are what they were, its hosts' configurations too."""

import json
import os
import signal
import subprocess

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from conftest import FLEET, run
from cryptoki import ck
from fleet import CODE, Fleet, Hsm, program
from material import MATERIAL
from peer.identity import Party
from peer.token import Token
from users import User

PASSPHRASE = "correct horse"
REFUSED = 5
ROOM = {"room": "4"}


class Papers:
    """The operators' directory: their keys in files, proposals, tokens, shares."""

    def __init__(self, directory, fleet=None):
        self.directory, self.fleet = directory, fleet
        directory.mkdir()

    def __call__(self, *args):
        return run(program("conclave"), *args, cwd=self.directory, env=self.environment)

    def json(self, *args):
        return json.loads(self("--json", *args))

    def fails(self, *args):
        """Exit status and what was said."""
        done = subprocess.run([str(program("conclave")), *map(str, args)], capture_output=True, text=True, timeout=120,
                              cwd=self.directory, env={**os.environ, **self.environment}, stdin=subprocess.DEVNULL)
        assert done.returncode != 0, done.stdout
        return done.returncode, done.stderr

    @property
    def environment(self):
        return {"CONCLAVE_CONF": str(self.directory / "conclave.toml"), "PASS": PASSPHRASE, "CODE": CODE}

    def over(self, hsm):
        """The operators' configuration: over this HSM's own socket."""
        (self.directory / "conclave.toml").write_text(
            "embedded = false\n" + self.fleet.entry([f"admin:{hsm.admin}"], None))

    def person(self, name):
        """An operator with a new key file."""
        self("operator", "keygen", "--out", f"{name}.pem", "--passphrase", "env:PASS")
        text, end = (self.directory / f"{name}.pem").read_text(), "-----END ENCRYPTED PRIVATE KEY-----"
        keys = [load_pem_private_key((block[block.index("-----BEGIN"):] + end).encode(), PASSPHRASE.encode())
                for block in text.split(end)[:2]]
        person = Party(name, ["officer", "operator"])
        person.signing, person.agreement = keys
        return person

    def sign(self, paper, *names):
        for name in names:
            self("proposal", "sign", paper, "--keys", f"{name}.pem", "--passphrase", "env:PASS", "--domain", "domain.token",
                 "--yes")

    def does(self, *command, by=("Anna", "Ben")):
        """Proposes, has it signed, and executes it."""
        paper = self.directory / "paper"
        paper.unlink(missing_ok=True)
        self(*command, "--out", paper)
        self.sign(paper, *by)
        self("proposal", "execute", paper, "--yes")
        self.export()

    def export(self):
        (self.directory / "domain.token").unlink(missing_ok=True)
        self("domain", "export", "--out", "domain.token")

    def state(self):
        return Token((self.directory / "domain.token").read_bytes()).state

    def share(self, command, name, out):
        return "domain", "recovery", "contribute", "--domain", "domain.token", "--command", command, "--keys", \
            f"{name}.pem", "--passphrase", "env:PASS", "--yes", "--out", out

    def admits(self, hsm):
        """What the README tells of a further HSM."""
        self("fleet", "bring", "--admin", hsm.admin)
        self("hsm", "claim", "--admin", hsm.admin, "--out", f"{hsm.id.hex()}.claim")
        self.does("proposal", "new", "admit-hsm", "--claim", f"{hsm.id.hex()}.claim")
        self("fleet", "bring", "--admin", hsm.admin)
        assert self.json("hsm", "status", "--admin", hsm.admin)["member"]


class Keys:
    """Keys of every kind, and what was made with them."""

    def __init__(self, user, alice):
        self.block = user.ordinary("kept", True)
        self.key = user.create()
        self.blobs, self.version = [], 4
        for _ in range(self.version - 1):
            self.blobs.append(user.encrypt(self.key, b"of a version", ROOM))
            user.rotate(self.key)
        self.external = user.create(Origin="EXTERNAL")
        user.bring(self.external, MATERIAL["AES_256"]())
        self.blobs.append(user.encrypt(self.external, b"of a version", ROOM))
        self.pair = user.create("ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
        self.signature = user.standard("sign", self.pair, 0, ck.CKM_ECDSA, bytes(32))
        self.alices = alice.create()
        self.hers = alice.encrypt(self.alices, b"hers")

    def check(self, user, alice):
        assert user.ordinary("kept", False) == self.block
        assert [user.decrypt(blob, ROOM) for blob in self.blobs] == [b"of a version"] * 4
        assert user.describe(self.key)["KeyVersion"] == self.version
        assert user.standard("verify", self.pair, 1, ck.CKM_ECDSA, bytes(32), self.signature) is True
        again = user.standard("sign", self.pair, 0, ck.CKM_ECDSA, bytes(32))
        assert user.standard("verify", self.pair, 1, ck.CKM_ECDSA, bytes(32), again) is True
        assert alice.decrypt(self.hers) == b"hers" and alice.refusal("decrypt", self.blobs[0], ROOM) == "KMS_R_ACCESS_DENIED"
        user.rotate(self.key)
        self.version += 1
        assert user.decrypt(user.encrypt(self.key, b"new")) == b"new"


@pytest.fixture(params=["sqlite", "postgres"])
def database(request):
    return None if request.param == "sqlite" else request.getfixturevalue("postgres").make("recovery")


@pytest.mark.skipif(bool(FLEET), reason="its fleet is its own")
def test_a_fleet_that_lost_every_hsm_comes_back(tmp_path, database):
    papers = Papers(tmp_path / "papers")
    people = [papers.person(name) for name in ("Anna", "Ben", "Cleo")]
    with Fleet(tmp_path / "fleet", hsms=2, database=database, label="recovers", people=people) as fleet:
        _recovers(fleet, papers)


def _recovers(fleet, papers):
    first, second = fleet.hsms
    papers.fleet = fleet
    papers.over(first)
    papers.export()
    fleet.create_user("alice", "alices-pin")
    conf = fleet.directory / "conclave.toml"
    conf.write_text("embedded = false\n" + fleet.entry())
    hosted = {"CONCLAVE_CONF": str(conf)}
    user, alice = User(conf, "recovers", "user", fleet.pin), User(conf, "recovers", "alice", "alices-pin")
    keys = Keys(user, alice)

    # A recovery set, and a rotation after it was made.
    papers.does("domain", "recovery", "make", "--threshold", "2")
    papers.does("domain", "rotate", by=["Cleo"])
    keys.check(user, alice)
    head = run(program("conclave"), "audit", "head", "--so-pin", f"pass:{fleet.so_pin}", env=hosted)
    assert "the log is whole" in run(program("conclave"), "audit", "verify", env=hosted)

    # One HSM is killed, the other hangs: it will be back with what it knew.
    first.kill()
    second.process.send_signal(signal.SIGSTOP)
    new = Hsm(fleet.directory, "c", fleet.trust).start()
    papers.over(new)
    papers("fleet", "bring", "--admin", new.admin)
    assert {member.id for member in papers.state().members} == {first.id, second.id}
    before = papers.json("domain", "show")

    # The command, and the shares.
    papers("domain", "recovery", "begin", "--out", "recover.proposal")
    papers.sign("recover.proposal", "Anna")
    status, said = papers.fails(*papers.share("recover.proposal", "Anna", "early.share"))
    assert status == REFUSED and "share stays with you" in said
    papers.sign("recover.proposal", "Ben")
    for name in "Anna", "Ben", "Cleo":
        papers(*papers.share("recover.proposal", name, f"{name}.share"))
    other = Hsm(fleet.directory, "d", fleet.trust).start()
    papers.over(other)
    papers("fleet", "bring", "--admin", other.admin)
    papers("domain", "recovery", "begin", "--out", "other.proposal")
    papers.sign("other.proposal", "Anna", "Ben")
    papers(*papers.share("other.proposal", "Cleo", "foreign.share"))

    def finish(command, *shares):
        return "domain", "recovery", "finish", "--command", command, "--yes", *(
            word for share in shares for word in ("--share", share))

    papers.over(new)
    (papers.directory / "forged.share").write_bytes((papers.directory / "Ben.share").read_bytes()[:-1] + b"\0")
    for command, shares in [
        ("recover.proposal", ["Anna.share"]), ("recover.proposal", ["Anna.share", "Anna.share"]),
        ("recover.proposal", ["Anna.share", "foreign.share"]), ("recover.proposal", ["Anna.share", "forged.share"]),
        ("other.proposal", ["Anna.share", "Ben.share"]),
    ]:
        status, said = papers.fails(*finish(command, *shares))
        assert status in (1, REFUSED) and "nothing has changed" in said, said
        assert papers.json("domain", "show") == before and not new.status()["member"]
    said = papers(*finish("recover.proposal", "Cleo.share", "Anna.share"))
    assert "is recovered" in said and new.status()["member"]
    papers.export()
    state = papers.state()
    assert [member.id for member in state.members] == [new.id] and state.version == before["version"] + 1
    assert state.recovery is not None
    # Who was to recover it otherwise is too late.
    papers.over(other)
    status, said = papers.fails(*finish("other.proposal", "foreign.share"))
    assert status in (1, REFUSED), said
    other.kill()
    papers.over(new)

    # The HSM that hung knows the old domain keys; told of the newest state it is no member, and serves nobody.
    second.process.send_signal(signal.SIGCONT)
    assert second.status()["member"]
    fleet.hsms = [new]
    fleet.bring(second)
    assert not second.status()["member"]
    second.kill()

    # Nobody has a PIN; the quorum lets all set theirs, at addresses that the hosts know.
    moved = Hsm(fleet.directory, "a", fleet.trust).start()
    papers.admits(moved)
    fleet.hsms = [new, moved]
    pins = {"SO": fleet.so_pin, "user": fleet.pin, "alice": "alices-pin"}
    assert user.refusal("encrypt", keys.key, b"x") in ("CKR_USER_NOT_LOGGED_IN", "CKR_DEVICE_ERROR")
    for name, pin in pins.items():
        papers.does("proposal", "new", "reset-pin", "--user", name, "--code", "env:CODE", by=["Ben", "Cleo"])
        papers("user", "set-pin", "--user", name, "--code", "env:CODE", "--new-pin", f"pass:{pin}")

    # The process that was there all the time logs in again; so does a new one.
    user.log_in_again("user", fleet.pin)
    alice.log_in_again("alice", "alices-pin")
    keys.check(user, alice)
    user.close()
    alice.close()
    user, alice = User(conf, "recovers", "user", fleet.pin), User(conf, "recovers", "alice", "alices-pin")
    keys.check(user, alice)
    shown = json.loads(run(program("conclave"), "session", "show", "--json", env=hosted))
    assert shown["Hsm"] == moved.id.hex() and sorted(shown["Members"]) == sorted([new.id.hex(), moved.id.hex()])
    user.close()
    alice.close()

    # The log goes on from what it was.
    (papers.directory / "head").write_text(head)
    assert "the log is whole" in run(program("conclave"), "audit", "verify", "--head", papers.directory / "head", env=hosted)
    history = papers("domain", "history")
    assert "recover domain" in history and "admit HSM" in history.split("recover domain")[1]
