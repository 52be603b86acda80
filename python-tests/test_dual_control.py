"""Keys under dual control over the C ABI: uses that wait for their operators, approved by other code's commands."""

import hashlib
import os
import pathlib
import subprocess
import sys
import time

import pytest
from ceremony import Ceremony
from conftest import FLEETS, MODULE, PIN
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptoki import ck
from kms import Kms
from managed import refused
from peer.command import Command
from peer.encoding import Refused

ANY = {"Operators": ["Anna", "Ben", "Cleo"], "Threshold": 2}


class Guarded:
    """A founded domain whose user is logged in, and a P-256 key that two of three have to approve."""

    def __init__(self, module):
        self.ceremony = Ceremony(module, "guarded").found()
        self.session, self.domain = self.ceremony.session, self.ceremony.domain
        self.session.logout()
        self.ceremony.login(PIN, ck.CKU_USER)
        self.kms = Kms(self.session)
        self.anna, self.ben, self.cleo = self.ceremony.people
        self.key = self.kms.create("ECC_NIST_P256", KeyUsage="SIGN_VERIFY", Label="root CA", DualControl=ANY)
        self.handle = self.private(self.key)

    def private(self, key):
        return self.session.find({ck.CKA_CLASS: ck.CKO_PRIVATE_KEY, ck.CKA_ID: key.encode()})[0]

    def sign(self, data):
        signature = self.session.sign(ck.CKM_ECDSA_SHA256, self.handle, data)
        public = serialization.load_der_public_key(self.session.get(self.handle, ck.CKA_PUBLIC_KEY_INFO))
        r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
        der = utils.encode_dss_signature(r, s)
        public.verify(der, data, ec.ECDSA(hashes.SHA256()))

    def pending(self):
        return [each for each in self.domain.proposals() if each["command"] == "use key"]

    def clear(self):
        """Withdraws what was proposed by uses that nobody approved."""
        for each in self.pending():
            self.domain.withdraw(bytes.fromhex(each["id"]))

    def propose(self, **members):
        request = {"command": "use key", "key": self.key, "action": "Sign", "digest": None, **members}
        return Command(self.domain.propose(request))

    def approve(self, *people, **members):
        command = self.propose(**members).sign(*[person.signing for person in people])
        self.domain.execute(command.encode())
        return command


@pytest.fixture(scope="module")
def guarded(module):
    return Guarded(module)


def test_a_use_is_proposed_signed_and_taken(guarded):
    with refused("CKR_KEY_FUNCTION_NOT_PERMITTED") as denied:
        guarded.sign(b"a certificate")
    [pending] = guarded.pending()
    assert pending["id"] in str(denied.value) and "conclave proposal sign" in str(denied.value)
    assert pending["arguments"]["digest"] == hashlib.sha256(b"a certificate").hexdigest()
    assert pending["arguments"]["instance"] == guarded.domain.describe()["instance"]
    assert pending["lacking"] == "0 of 2 persons among the key's operators" and '"root CA"' in pending["words"]
    # The same again waits for the same proposal.
    with refused("CKR_KEY_FUNCTION_NOT_PERMITTED"):
        guarded.sign(b"a certificate")
    assert len(guarded.pending()) == 1
    command = Command(bytes.fromhex(pending["proposal"]))
    with pytest.raises(Refused):
        command.verify(guarded.ceremony.state, int(time.time()))
    guarded.domain.put(command.sign(guarded.anna.signing).encode())
    with refused("CKR_KEY_FUNCTION_NOT_PERMITTED"):
        guarded.sign(b"a certificate")
    guarded.domain.put(command.sign(guarded.cleo.signing).encode())
    assert len(command.verify(guarded.ceremony.state, int(time.time()))) == 2
    guarded.sign(b"a certificate")
    assert guarded.pending() == []
    with refused("CKR_FUNCTION_REJECTED"):
        guarded.domain.execute(command.encode())
    with refused("CKR_KEY_FUNCTION_NOT_PERMITTED"):
        guarded.sign(b"a certificate")
    guarded.clear()


def test_what_other_code_makes_approves(guarded):
    command = guarded.propose()
    usage = ["Sign", None, bytes.fromhex(guarded.domain.describe()["instance"]), 2]
    made = guarded.ceremony.command("use key", command.arguments[0], usage, by=[guarded.anna, guarded.ben])
    guarded.domain.execute(made)
    guarded.sign(b"one")
    guarded.sign(b"two")
    for arguments, by in [
        ([command.arguments[0], usage], [guarded.anna]),
        ([command.arguments[0], [*usage[:2], bytes(16), 1]], [guarded.anna, guarded.ben]),
        ([command.arguments[0], [*usage[:3], 0]], [guarded.anna, guarded.ben]),
        ([command.arguments[0], ["Dance", *usage[1:]]], [guarded.anna, guarded.ben]),
        ([[*command.arguments[0][:2], "a test key", command.arguments[0][3]], usage], [guarded.anna, guarded.ben]),
        ([[*command.arguments[0][:3], [1, *command.arguments[0][3][1:]]], usage], [guarded.anna]),
    ]:
        with refused("CKR_FUNCTION_REJECTED"):
            guarded.domain.execute(guarded.ceremony.command("use key", *arguments, by=by))
    with refused("CKR_KEY_FUNCTION_NOT_PERMITTED"):
        guarded.sign(b"three")


def test_envelopes_and_data_keys(guarded):
    kms = guarded.kms
    key = kms.create(DualControl=ANY)
    assert kms.describe(key)["DualControl"]["Threshold"] == 2
    with refused("KMS_R_ACCESS_DENIED"):
        kms.encrypt(key, b"plain")
    with refused("KMS_R_ACCESS_DENIED"):
        kms.data_key(key)
    kms.audit_head()
    denied = [row["action"] for row in kms.read_audit()
              if row.get("key") == key and row["outcome"] == "KMS_R_ACCESS_DENIED"]
    assert denied == ["Encrypt", "GenerateDataKey"]
    with refused("KMS_R_DRY_RUN"):
        kms.encrypt(key, b"plain", dry_run=True)
    both = guarded.anna, guarded.ben
    guarded.approve(*both, key=key, action="Encrypt", digest=hashlib.sha256(b"plain").hexdigest())
    blob = kms.encrypt(key, b"plain")
    for call in (lambda: kms.encrypt(key, b"plain"), lambda: kms.decrypt(blob), lambda: kms.reencrypt(blob, key)):
        with refused("KMS_R_ACCESS_DENIED"):
            call()
    guarded.approve(*both, key=key, action="Decrypt")
    assert kms.decrypt(blob) == b"plain"
    other = kms.create(DualControl=ANY)
    guarded.approve(*both, key=key, action="ReEncrypt")
    with refused("KMS_R_ACCESS_DENIED"):
        kms.reencrypt(blob, other)
    # The first key's was not spent by that.
    guarded.approve(*both, key=other, action="ReEncrypt")
    again = kms.reencrypt(blob, other)
    guarded.approve(*both, key=other, action="Decrypt", digest=hashlib.sha256(again).hexdigest())
    assert kms.decrypt(again) == b"plain"


def test_its_operators_change_its_control(guarded):
    key = guarded.kms.create("HMAC_256", DualControl={"Operators": ["Anna", "Ben"], "Threshold": 2})
    request = {"command": "set dual control", "key": key, "operators": ["Ben", "Cleo"], "threshold": 1}
    command = Command(guarded.domain.propose(request))
    with refused("CKR_FUNCTION_REJECTED"):
        guarded.domain.execute(command.sign(guarded.anna.signing).encode())
    guarded.domain.execute(command.sign(guarded.ben.signing).encode())
    said = guarded.kms.describe(key)["DualControl"]
    assert (said["Threshold"], said["Revision"], len(said["Operators"])) == (1, 2, 2)
    with refused("CKR_FUNCTION_REJECTED"):
        guarded.domain.execute(command.encode())
    guarded.approve(guarded.cleo, key=key, action="GenerateMac")
    handle = guarded.session.find({ck.CKA_ID: key.encode()})[0]
    assert len(guarded.session.sign(ck.CKM_SHA256_HMAC, handle, b"x")) == 32
    with refused("CKR_KEY_FUNCTION_NOT_PERMITTED"):
        guarded.session.sign(ck.CKM_SHA256_HMAC, handle, b"x")


@pytest.mark.parametrize("control", [
    {"Operators": ["Anna", "Ben"], "Threshold": 3}, {"Operators": ["Anna"], "Threshold": 0}, {"Operators": ["Nobody"], "Threshold": 1},
    {"Operators": "Anna", "Threshold": 1}, {"Threshold": 1}, {"Operators": ["Anna"], "Threshold": 1, "More": 1},
])
def test_what_cannot_be(guarded, control):
    with refused("KMS_R_MALFORMED_POLICY"):
        guarded.kms.create(DualControl=control)


def test_multi_region_keys_have_none(guarded):
    with refused("KMS_R_MALFORMED_POLICY"):
        guarded.kms.create(DualControl=ANY, MultiRegion=True)


def test_the_command_line_proposes(guarded, tmp_path):
    def conclave(*words, status=0):
        command = [str(MODULE.with_name("conclave")), *map(str, words), "--token", "guarded", "--pin", f"pass:{PIN}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    key = guarded.kms.create("ECC_NIST_P256", KeyUsage="SIGN_VERIFY", DualControl=ANY)
    guarded.kms.ask("CreateAlias", AliasName="alias/guarded", TargetKeyId=key)
    use, change = tmp_path / "use.proposal", tmp_path / "change.proposal"
    instance = guarded.domain.describe()["instance"]
    said = conclave("proposal", "new", "use-key", "--key", "alias/guarded", "--action", "Sign", "--any", "--count", 2,
                    "--instance", instance, "--out", use)
    assert "Sign, 2 times" in said and "On ANY input." in said
    command = Command(use.read_bytes()).sign(guarded.anna.signing, guarded.ben.signing)
    use.write_bytes(command.encode())
    # Another process's HSM is not the one that is meant.
    assert instance in conclave("proposal", "execute", use, "--yes", status=2)
    guarded.domain.execute(command.encode())
    signature = guarded.session.sign(ck.CKM_ECDSA_SHA256, guarded.private(key), b"x")
    assert len(signature) == 64
    conclave("proposal", "new", "set-dual-control", "--key", key, "--operator", "Cleo", "--threshold", 1, "--out", change)
    command = Command(change.read_bytes()).sign(guarded.anna.signing, guarded.ben.signing)
    change.write_bytes(command.encode())
    assert "Done: set dual control." in conclave("proposal", "execute", change, "--yes")
    assert guarded.kms.describe(key)["DualControl"]["Threshold"] == 1
    # What was approved before is void at once, in this process too.
    with refused("CKR_KEY_FUNCTION_NOT_PERMITTED"):
        guarded.session.sign(ck.CKM_ECDSA_SHA256, guarded.private(key), b"x")


WAITING = """
import sys, threading, time, json
from ctypes import c_ulong
from cryptoki import Error, Module, ck
module = Module(sys.argv[1])
module.initialize()
slot = module.slot_of("guarded")
session, other = module.session(slot), module.session(slot)
session.login(sys.argv[2].encode())
def key():
    return session.find({ck.CKA_CLASS: ck.CKO_PRIVATE_KEY, ck.CKA_LABEL: "root CA"})[0]
def sign(session, handle, said):
    try:
        session.sign(ck.CKM_ECDSA_SHA256, handle, b"waits")
        said.append("signed")
    except Error as error:
        said.append(error.name)
def wait(session, end):
    said, handle, begun = [], key(), time.monotonic()
    thread = threading.Thread(target=sign, args=(session, handle, said))
    thread.start()
    while not [each for each in other.domain.proposals() if each["command"] == "use key"]:
        time.sleep(0.02)
    end()
    thread.join(20)
    print(said, flush=True)
print("ready", flush=True)
# Another process signs.
wait(session, lambda: None)
third = module.session(slot)
wait(third, third.close)
wait(session, lambda: other.logout())
session.login(sys.argv[2].encode())
wait(session, module.finalize)
"""


def test_a_wait_ends_by_signatures_by_close_by_logout_and_by_the_end(guarded, tmp_path):
    conf = tmp_path / "conclave.toml"
    conf.write_text("approval_wait = 60\n" + (FLEETS.entries() if FLEETS else ""))
    environment = {**os.environ, "CONCLAVE_CONF": str(conf), "PYTHONPATH": str(pathlib.Path(__file__).parent)}
    guarded.clear()
    process = subprocess.Popen([sys.executable, "-c", WAITING, str(MODULE), PIN], stdout=subprocess.PIPE, env=environment, text=True)
    begun = time.monotonic()
    assert process.stdout.readline() == "ready\n"
    while not guarded.pending():
        time.sleep(0.05)
    command = Command(bytes.fromhex(guarded.pending()[0]["proposal"]))
    for person in (guarded.ben, guarded.cleo):
        guarded.domain.put(command.sign(person.signing).encode())
    said, _ = process.communicate(timeout=60)
    assert said.splitlines() == ["['signed']", "['CKR_SESSION_HANDLE_INVALID']", "['CKR_USER_NOT_LOGGED_IN']",
                                 "['CKR_CRYPTOKI_NOT_INITIALIZED']"]
    assert process.returncode == 0 and time.monotonic() - begun < 50
    assert guarded.pending() == []
