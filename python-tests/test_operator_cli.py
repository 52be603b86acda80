"""`conclave operator`, `proposal` and `domain` on paper, with keys in a file, in SoftHSM2 and in a Conclave token.

The domain is real: the module proposes and executes, and all that operators do is done by the command line.
"""

import contextlib
import json
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from peer.command import Command
from peer.identity import OPERATOR, claimed
from peer.keys import sha256
from peer.log import History
from peer.token import Token

import cryptoki
import fleet
from conftest import FLEETS, MODULE, PIN, SO_PIN, need, run
from cryptoki import ck
from test_vectors import vectors

CONCLAVE = MODULE.with_name("conclave")
PASSPHRASE = "pass:correct horse"
SOFTHSM = next(Path("/usr/lib").glob("**/softhsm/libsofthsm2.so"), None)
ROLES = ["officer", "operator"]


def conclave(*args, **kwargs):
    return run(CONCLAVE, *args, **kwargs)


def fails(code, *args, input=b""):
    """What was said; the exit status is `code`."""
    done = subprocess.run([str(word) for word in (CONCLAVE, *args)], capture_output=True, input=input, timeout=60)
    said = done.stderr.decode()
    assert (done.returncode, done.stdout) == (code, b""), said
    return said


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("papers")


@pytest.fixture(scope="module")
def keys(directory, module):
    """The arguments by which Anna, Ben and Cleo name their keys."""
    need("softhsm2-util")
    anna = directory / "anna.pem"
    conclave("operator", "keygen", "--out", anna, "--passphrase", PASSPHRASE)
    run("softhsm2-util", "--init-token", "--free", "--label", "signs-ben", "--pin", PIN, "--so-pin", SO_PIN)
    slot = module.make_token("signs-cleo", SO_PIN.encode(), PIN.encode())
    sources = {"Anna": ["--keys", anna, "--passphrase", PASSPHRASE]}
    for name, library in ("Ben", SOFTHSM), ("Cleo", MODULE):
        label = name.lower()
        token = ["--token-label", f"signs-{label}"]
        sources[name] = ["--pkcs11", library, "--label", label, *token, "--pin", f"pass:{PIN}"]
    with of_cleo(slot, directory):
        for name in "Ben", "Cleo":
            conclave("operator", "keygen", *sources[name])
        yield sources


@contextlib.contextmanager
def of_cleo(slot, directory):
    """Programs see her token alone where it is a fleet's: others of the configuration are not founded yet."""
    with pytest.MonkeyPatch.context() as patch:
        if FLEETS:
            conf = directory / "cleo.toml"
            conf.write_text("embedded = false\n" + FLEETS.fleet(slot).entry())
            patch.setenv("CONCLAVE_CONF", str(conf))
        yield


class Person:
    """An operator of a fleet, by the command line."""

    def __init__(self, ceremony, name):
        self.ceremony, self.name = ceremony, name

    def founder(self, _domain):
        return [self.ceremony.claim(self.name), sorted(ROLES)]


class Fleet(fleet.Fleet):
    """Whose operators sign all by the command line, from its founding on."""

    def token(self):
        token = super().token()
        ceremony = self.people[0].ceremony
        ceremony.token = ceremony.paper("first.token" if Token(token).state.log_head is None else "newest.token", token)
        return token

    def _signed(self, state, name, *arguments, by=None):
        ceremony = self.people[0].ceremony
        proposal = ceremony.paper("of-the-fleet.proposal", Command.of(state, name, *arguments).encode())
        for person in by or self.people:
            ceremony.sign(proposal, person.name, domain=False)
        return ["execute", proposal.read_bytes().hex()]


class Ceremony:
    """A token whose domain the three operators govern, and its papers."""

    def __init__(self, directory, keys, module):
        self.directory, self.keys, self.module, self.claims = directory, keys, module, {}
        if FLEETS:
            self.slot = FLEETS.make("governed", SO_PIN, PIN, make=Fleet, people=[Person(self, name) for name in keys])
        else:
            self.slot = module.make_token("governed", SO_PIN.encode(), PIN.encode())
        self.session = module.session(self.slot)
        self.session.login(SO_PIN.encode(), ck.CKU_SO)
        self.domain = cryptoki.Domain(self.session)
        if not FLEETS:
            self.token = self.paper("first.token", self.domain.export_token())
            founders = [{"claim": self.claim(name).hex(), "roles": ROLES} for name in keys]
            proposal = self.propose("founding", {"command": "found domain", "region": "eu-north", "operators": founders})
            for name in keys:
                self.sign(proposal, name, domain=False)
            self.domain.execute(proposal.read_bytes())
        self.token = self.paper("founded.token", self.domain.export_token())

    def paper(self, name, data):
        path = self.directory / name
        path.write_bytes(data)
        return path

    def propose(self, name, request):
        return self.paper(f"{name}.proposal", self.domain.propose(request))

    def claim(self, name):
        out = self.directory / f"{name}.claim"
        conclave("operator", "claim", "--person", name, "--domain", self.token, *self.keys[name], "--out", out)
        self.claims[name] = out.read_bytes()
        return self.claims[name]

    def sign(self, proposal, name, *more, domain=True):
        known = ["--domain", self.token] if domain else []
        return conclave("proposal", "sign", proposal, *self.keys[name], *known, "--yes", *more)

    def show(self, proposal):
        return json.loads(conclave("proposal", "show", proposal, "--domain", self.token, "--json"))


@pytest.fixture(scope="module")
def ceremony(directory, keys, module):
    return Ceremony(directory, keys, module)


def test_help_has_examples():
    for words in ("operator keygen", "operator show", "operator claim", "operator check", "operator rekey", "proposal show", "proposal sign",
                  "proposal merge", "domain show", "domain history", "domain recovery contribute"):
        said = conclave(*words.split(), "--help")
        assert "Usage: conclave" in said and "Example" in said, words


def test_a_key_file_is_what_openssl_reads(keys, directory):
    anna = directory / "anna.pem"
    assert anna.stat().st_mode & 0o777 == 0o600
    shown = json.loads(conclave("operator", "show", *keys["Anna"], "--json"))
    end = "-----END ENCRYPTED PRIVATE KEY-----"
    blocks = [block + end for block in anna.read_text().split(end)[:2]]
    for name, block in zip(("signing", "agreement"), blocks):
        key = load_pem_private_key(block[block.index("-----BEGIN"):].encode(), PASSPHRASE[5:].encode())
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert shown[name] == {"kid": sha256(spki).hex(), "public_key": spki.hex()}
    assert "secp384r1" in run("openssl", "pkey", "-in", anna, "-passin", PASSPHRASE, "-noout", "-text")


def test_keys_are_not_overwritten_and_their_secrets_are_needed(keys, directory):
    anna = directory / "anna.pem"
    assert "never overwritten" in fails(1, "operator", "keygen", "--out", anna, "--passphrase", PASSPHRASE)
    assert "at least 8" in fails(2, "operator", "keygen", "--out", directory / "no.pem", "--passphrase", "pass:short")
    assert not (directory / "no.pem").exists()
    assert "passphrase is wrong" in fails(4, "operator", "show", "--keys", anna, "--passphrase", "pass:incorrect horse")
    assert "already" in fails(1, "operator", "keygen", *keys["Ben"])
    for name in "Ben", "Cleo":
        assert "PIN was not taken" in fails(4, "operator", "show", *keys[name][:-1], "pass:0000")
        where = [*keys[name][:3], "nobody", *keys[name][4:]]
        assert "no private EC key" in fails(1, "operator", "show", *where)
    assert "no token" in fails(3, "operator", "show", *keys["Ben"][:5], "nowhere", "--pin", "pass:0000")
    assert "cannot load" in fails(1, "operator", "show", "--pkcs11", "/nowhere.so", "--label", "x", "--pin", "pass:0000")
    assert "no file" in fails(3, "operator", "show", "--keys", directory / "nobody.pem")
    damaged = directory / "damaged.pem"
    damaged.write_text(anna.read_text()[:500])
    assert "two encrypted keys" in fails(1, "operator", "show", "--keys", damaged, "--passphrase", PASSPHRASE)


def test_claims_prove_possession(ceremony, keys, directory):
    token = Token(ceremony.token.read_bytes())
    for name, claim in ceremony.claims.items():
        identity = claimed(claim, token.state.domain, OPERATOR)
        shown = json.loads(conclave("operator", "show", *keys[name], "--json"))
        expected = (name, shown["signing"]["public_key"], shown["agreement"]["public_key"])
        assert (identity.name, identity.signing.hex(), identity.agreement.hex()) == expected
    out = directory / "dora.claim"
    by_id = ["operator", "claim", "--person", "Dora", "--domain-id", token.state.domain.hex(), *keys["Anna"]]
    said = json.loads(conclave(*by_id, "--out", out, "--json"))
    assert said["name"] == "Dora" and said["valid"]
    assert "exists already" in fails(1, *by_id, "--out", out)
    assert "\"Dora\" is good" in conclave("operator", "check", out, "--domain", ceremony.token)
    assert "not good for this domain" in fails(1, "operator", "check", out, "--domain-id", "00" * 16)
    assert "32 hexadecimal digits" in fails(2, "operator", "claim", "--person", "Dora", "--domain-id", "x", *keys["Anna"],
                                            "--out", "-")


def test_a_quorum_signs_on_paper(ceremony, keys, directory):
    proposal = ceremony.propose("trust", {"command": "trust key", "object": "07" * 16})
    shown = ceremony.show(proposal)
    assert not shown["quorum_met"] and shown["lacking"] == "officer 0 of 2 (0 of 2 persons)"
    text = conclave("proposal", "show", proposal)
    assert "Command: trust key\n" in text and "nobody yet" in text
    copies = [directory / f"trust-{name}.proposal" for name in keys]
    for name, copy in zip(keys, copies):
        assert "Lacking: officer 1 of 2" in ceremony.sign(proposal, name, "--out", copy)
    assert proposal.read_bytes() == ceremony.domain.proposal(bytes.fromhex(shown["id"]))
    merged = directory / "trust-merged.proposal"
    assert "3 signatures" in conclave("proposal", "merge", *copies, "--out", merged)
    state = Token(ceremony.token.read_bytes()).state
    persons = [operator.person for operator in Command(merged.read_bytes()).signed_by(state.operators)]
    assert sorted(persons) == list(keys)
    said = conclave("proposal", "show", merged, "--domain", ceremony.token)
    assert said.count("Signed by: ") == 3 and "The signatures are enough." in said
    ceremony.domain.execute(merged.read_bytes())
    assert ceremony.domain.describe()["trusted_keys"] == ["07" * 16]


def test_what_is_not_signed(ceremony, keys, directory):
    proposal = ceremony.propose("rotate", {"command": "rotate domain key"})
    before = proposal.read_bytes()
    sign = ["proposal", "sign", proposal, *keys["Anna"]]
    assert "--yes" in fails(2, *sign)
    old = ceremony.paper("old.token", (directory / "first.token").read_bytes())
    assert "other operators" in fails(1, *sign, "--domain", old, "--yes")
    vector = next(v.values[0] for v in vectors("command.json") if v.values[0]["command"] == "rotate RSK")
    foreign = ceremony.paper("foreign.proposal", bytes.fromhex(vector["signed"]))
    assert "another domain" in fails(1, "proposal", "sign", foreign, *keys["Anna"], "--domain", ceremony.token, "--yes")
    stranger = directory / "stranger.pem"
    conclave("operator", "keygen", "--out", stranger, "--passphrase", PASSPHRASE)
    said = fails(1, "proposal", "sign", proposal, "--keys", stranger, "--passphrase", PASSPHRASE, "--domain",
                 ceremony.token, "--yes")
    assert "not one of the domain's operators" in said
    assert proposal.read_bytes() == before
    ceremony.sign(proposal, "Anna")
    assert "signed the command already" in fails(5, *sign, "--yes")
    assert "not copies of one proposal" in fails(5, "proposal", "merge", proposal, foreign, "--out", directory / "x")
    broken = ceremony.paper("broken.proposal", proposal.read_bytes()[:-1])
    assert "cannot read the proposal" in fails(1, "proposal", "show", broken)


def test_papers_go_through_pipes(ceremony, keys):
    proposal = ceremony.propose("piped", {"command": "rotate RSK"}).read_bytes()
    done = subprocess.run([str(word) for word in (CONCLAVE, "proposal", "sign", "-", *keys["Anna"], "--yes")],
                          input=proposal, capture_output=True, timeout=60)
    assert done.returncode == 0 and b"Command: rotate RSK" in done.stderr
    assert len(Command(done.stdout).signatures) == 1 and Command(done.stdout).payload == Command(proposal).payload
    shown = json.loads(run(CONCLAVE, "proposal", "show", "-", "--json", input=done.stdout))
    assert len(shown["signers"]) == 1 and shown["quorum_met"] is None


def test_the_history_is_verified_as_it_prints(ceremony, keys):
    data = ceremony.domain.history()
    history = ceremony.paper("domain.history", data)
    peer = History(data)
    entries = json.loads(conclave("domain", "history", "--file", history, "--domain", ceremony.token, "--json"))
    assert [bytes.fromhex(entry["state"]) for entry in entries] == [step.hash for step in peer.steps]
    assert (entries[0]["command"], sorted(s["person"] for s in entries[0]["signers"])) == ("found domain", list(keys))
    text = conclave("domain", "history", "--file", history)
    assert "found domain" in text and f"All {len(entries)} entries verify." in text
    assert "Hand the domain" in conclave("domain", "history", "--file", history, "--words")
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    assert "does not verify" in fails(5, "domain", "history", "--file", ceremony.paper("changed.history", changed))
    (other,) = [v.values[0] for v in vectors("recovery.json")]
    other = ceremony.paper("other.token", bytes.fromhex(other["token"]))
    assert "does not go through" in fails(5, "domain", "history", "--file", history, "--domain", other)


def test_a_domain_token_is_shown(ceremony):
    shown = json.loads(conclave("domain", "show", "--file", ceremony.token, "--json"))
    state = Token(ceremony.token.read_bytes()).state
    assert (shown["domain"], shown["version"], shown["governed_by"]) == (state.domain.hex(), state.version, "operators")
    text = conclave("domain", "show", "--file", ceremony.token)
    assert all(word in text for word in ("Anna", "officer, operator", "eu-north", '"trust key" needs: "officer" 2'))
    assert "not a domain token" in fails(1, "domain", "show", "--file", ceremony.directory / "Anna.claim")


def test_new_keys_for_an_operator(ceremony, directory):
    new = directory / "anna-2.pem"
    conclave("operator", "keygen", "--out", new, "--passphrase", PASSPHRASE)
    out = directory / "anna-2.claim"
    rekey = ["operator", "rekey", "--domain", ceremony.token, "--keys", new, "--passphrase", PASSPHRASE, "--out", out]
    conclave(*rekey, "--operator", "Anna")
    state = Token(ceremony.token.read_bytes()).state
    (anna,) = [operator for operator in state.operators if operator.person == "Anna"]
    identity = claimed(out.read_bytes(), state.domain, OPERATOR)
    assert (identity.id, identity.name) == (anna.id, "Anna") and identity.signing != anna.signing
    assert "no operator" in fails(3, *rekey, "--operator", "Zoe")


@pytest.mark.embedded("its fresh HSM is a process; test_fleet_recovery.py is about that of fleets")
def test_shares_bring_a_domain_back(ceremony, keys, directory):
    """Last: the domain has another HSM afterwards."""
    made = ceremony.propose("recovery-set", {"command": "make recovery set", "threshold": 3})
    for name in "Anna", "Ben":
        ceremony.sign(made, name)
    ceremony.domain.execute(made.read_bytes())
    known = ceremony.paper("known.token", ceremony.domain.export_token())
    # The domain goes on; Cleo knows only an older token, and gets there by the history.
    rotate = ceremony.propose("rotate-2", {"command": "rotate domain key"})
    ceremony.sign(rotate, "Cleo")
    ceremony.domain.execute(rotate.read_bytes())
    newest = ceremony.paper("newest.token", ceremony.domain.export_token())
    history = ceremony.paper("to-newest.history", ceremony.domain.history())

    claim = ceremony.module.begin_recovery(ceremony.slot, b"new-so-pin")
    command = ceremony.propose("recover", {"command": "recover domain", "hsm": claim.hex()})
    contribute = ["domain", "recovery", "contribute", "--command", command, "--yes"]
    ceremony.sign(command, "Anna")
    share = directory / "alone.share"
    said = fails(5, *contribute, "--domain", newest, *keys["Anna"], "--out", share)
    assert "quorum not met" in said and not share.exists()
    ceremony.sign(command, "Ben")
    said = fails(5, *contribute, "--domain", known, *keys["Cleo"], "--out", share)
    assert "another version or state" in said and not share.exists()
    shares = []
    for name in keys:
        out = directory / f"{name}.share"
        where = ["--domain", known, "--history", history] if name == "Cleo" else ["--domain", newest]
        conclave(*contribute, *where, *keys[name], "--out", out)
        shares.append(out.read_bytes())
    ceremony.session.close()
    with pytest.raises(cryptoki.Error, match="2 shares of 3"):
        ceremony.module.recover(ceremony.slot, b"new-so-pin", command.read_bytes(), shares[:2])
    ceremony.module.recover(ceremony.slot, b"new-so-pin", command.read_bytes(), shares)
    with ceremony.module.session(ceremony.slot) as session:
        session.login(b"new-so-pin", ck.CKU_SO)
        described = cryptoki.Domain(session).describe()
    # The recovery is one version, the SO's new PIN another.
    assert described["version"] == Token(newest.read_bytes()).state.version + 2
