"""The `conclave` command as its users call it: help, text, JSON, exit codes, confirmation."""

import json
import os
import pty
import subprocess

import pytest

from conftest import MODULE, run

pytestmark = pytest.mark.embedded("it makes and destroys tokens")

CONCLAVE = MODULE.with_name("conclave")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A data directory with one token `web`, whose user PIN is 1234."""
    home = tmp_path_factory.mktemp("cli")
    conclave(home, "token", "init", "--label", "web", "--so-pin", "pass:87654321", "--pin", "pass:1234")
    tool(home, "--keypairgen", "--key-type", "EC:prime256v1", "--label", "signing", "--id", "01a2")
    tool(home, "--keygen", "--key-type", "AES:32", "--label", "wrapping", "--sensitive", "--private")
    return home


def conclave(home, *args, **kwargs):
    return run(CONCLAVE, *args, env={"CONCLAVE_HOME": str(home)}, **kwargs)


def tool(home, *args):
    return run("pkcs11-tool", "--module", MODULE, "--login", "--pin", "1234", *args, env={"CONCLAVE_HOME": str(home)})


def fails(home, *args, env=None):
    """Exit status and what was said to standard error."""
    done = subprocess.run([CONCLAVE, *args], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          env={**os.environ, "CONCLAVE_HOME": str(home), **(env or {})}, timeout=60)
    assert done.returncode != 0 and not done.stdout
    return done.returncode, done.stderr


def test_help_has_examples(home):
    for words in ([], ["token"], ["token", "init"], ["token", "destroy"], ["key"], ["key", "list"], ["key", "show"],
                  ["key", "trust"], ["mechanisms"], ["doctor"]):
        said = conclave(home, *words, "--help")
        assert "Usage: conclave" in said
        if len(words) == 2:
            assert "Example" in said, words


def test_tokens_are_listed(home):
    assert "web" in conclave(home, "token", "list")
    [token] = json.loads(conclave(home, "--json", "token", "list"))
    assert token["label"] == "web" and token["slot"] == 0 and token["user_pin"] == "ok"
    assert len(token["serial"]) == 16


def test_keys_are_listed_as_far_as_the_pin_allows(home):
    objects = json.loads(conclave(home, "key", "list", "--json", "--pin", "pass:1234"))
    assert {(o["class"], o["label"]) for o in objects} >= {
        ("private key", "signing"), ("public key", "signing"), ("secret key", "wrapping")}
    text = conclave(home, "key", "list", "--pin", "none")
    assert "public key" in text and "private key" not in text


def test_a_key_is_shown_by_label_id_and_unique_id(home):
    by_label = json.loads(conclave(home, "key", "show", "signing", "--json", "--pin", "pass:1234"))
    by_id = json.loads(conclave(home, "key", "show", "01a2", "--json", "--pin", "pass:1234"))
    assert by_label == by_id and len(by_id) == 2
    private = next(o for o in by_id if o["class"] == "private key")
    assert private["key_gen_mechanism"] == "CKM_EC_KEY_PAIR_GEN" and private["never_extractable"]
    [same] = json.loads(conclave(home, "key", "show", private["unique_id"], "--json", "--pin", "pass:1234"))
    assert same == private
    assert "sensitive" in conclave(home, "key", "show", "wrapping", "--pin", "pass:1234")


def test_no_output_holds_key_material(home):
    tool(home, "--keygen", "--key-type", "GENERIC:16", "--label", "readable", "--extractable")
    shown = json.loads(conclave(home, "key", "show", "readable", "--json", "--pin", "pass:1234"))
    assert "value" not in shown[0] and shown[0]["value_len"] == 16


def test_the_so_trusts_a_public_key_after_confirmation(home):
    status, said = fails(home, "key", "trust", "signing", "--so-pin", "pass:87654321")
    assert status == 2 and "--yes" in said
    conclave(home, "key", "trust", "signing", "--so-pin", "pass:87654321", "--yes")
    shown = json.loads(conclave(home, "key", "show", "signing", "--json", "--pin", "pass:1234"))
    assert [o["trusted"] for o in shown if "trusted" in o] == [True]
    [unverified] = json.loads(conclave(home, "key", "show", "signing", "--json", "--pin", "none"))
    assert unverified["trusted"] is False, "before the login nobody vouches for it"
    status, said = fails(home, "key", "trust", "wrapping", "--so-pin", "pass:87654321", "--yes")
    assert status == 3, "the SO does not see private keys"


@pytest.mark.parametrize("args, status, words", [
    (["key", "list", "--pin", "pass:9999"], 4, "CKR_PIN_INCORRECT"),
    (["key", "list", "--token", "nowhere", "--pin", "none"], 3, "conclave token list"),
    (["key", "show", "nothing", "--pin", "pass:1234"], 3, "conclave key list"),
    (["key", "list", "--pin", "env:NO_SUCH_VARIABLE"], 2, "NO_SUCH_VARIABLE"),
    (["key", "list", "--pin", "1234"], 2, "env:NAME"),
    (["token", "init", "--label", "x" * 33], 2, "32 bytes"),
    (["token", "init", "--label", "x", "--so-pin", "pass:1", "--pin", "pass:1234"], 4, "CKR_PIN_LEN_RANGE"),
    (["token", "destroy", "web"], 2, "--yes"),
    (["no", "such"], 2, "Usage"),
])
def test_a_failure_says_what_and_what_to_do(home, args, status, words):
    found, said = fails(home, *args)
    assert found == status and words in said, said


def test_a_failure_in_json(home):
    _, said = fails(home, "--json", "key", "list", "--pin", "pass:9999")
    failure = json.loads(said)
    assert failure["rv"] == "CKR_PIN_INCORRECT" and failure["error"]


def test_pins_come_from_files_and_the_terminal(home, tmp_path):
    pin = tmp_path / "pin"
    pin.write_text("1234\n")
    assert "signing" in conclave(home, "key", "list", "--pin", f"file:{pin}")
    assert "signing" in conclave(home, "key", "list", "--pin", "stdin", input=b"1234\n")
    master, terminal = pty.openpty()
    child = subprocess.Popen([CONCLAVE, "key", "list"], stdin=terminal, stdout=subprocess.PIPE, stderr=terminal,
                             env={**os.environ, "CONCLAVE_HOME": str(home)}, start_new_session=True,
                             preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0))
    os.close(terminal)
    os.read(master, 100)
    os.write(master, b"1234\n")
    out, _ = child.communicate(timeout=60)
    os.close(master)
    assert child.returncode == 0 and b"signing" in out


def test_a_token_is_destroyed_for_good(tmp_path):
    conclave(tmp_path, "token", "init", "--label", "gone", "--so-pin", "pass:12345678", "--pin", "pass:1234")
    conclave(tmp_path, "token", "destroy", "gone", "--yes")
    assert json.loads(conclave(tmp_path, "token", "list", "--json")) == []
    conclave(tmp_path, "token", "init", "--label", "next", "--so-pin", "pass:12345678", "--pin", "pass:1234")
    [token] = json.loads(conclave(tmp_path, "token", "list", "--json"))
    assert token["slot"] == 1, "a slot id is never given twice"


def test_mechanisms(home):
    listed = {m["name"]: m for m in json.loads(conclave(home, "mechanisms", "--json"))}
    assert listed["CKM_AES_GCM"]["functions"][:2] == ["encrypt", "decrypt"]
    assert "CKM_ECDSA_SHA256" in conclave(home, "mechanisms")


def test_the_doctor_finds_what_is_wrong(home, tmp_path):
    checks = json.loads(conclave(home, "doctor", "--json"))
    assert {c["status"] for c in checks} <= {"ok", "warning"}
    assert any(c["check"] == "self-test" and c["status"] == "ok" for c in checks)

    wrong = tmp_path / "conclave.toml"
    wrong.write_text("free_slot = true\nkey_separatoin = \"off\"\n")
    done = subprocess.run([CONCLAVE, "doctor"], capture_output=True, text=True,
                          env={**os.environ, "CONCLAVE_CONF": str(wrong)}, timeout=60)
    assert done.returncode == 1 and str(wrong) in done.stdout and "key_separatoin" in done.stdout

    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    done = subprocess.run([CONCLAVE, "doctor"], capture_output=True, text=True,
                          env={**os.environ, "CONCLAVE_HOME": str(open_to_all)}, timeout=60)
    assert done.returncode == 1 and "chmod 700" in done.stdout


def test_the_doctor_sees_a_locked_pin(tmp_path):
    conclave(tmp_path, "token", "init", "--label", "t", "--so-pin", "pass:12345678", "--pin", "pass:1234")
    for _ in range(10):
        status, said = fails(tmp_path, "key", "list", "--pin", "pass:0000")
        assert status == 4
    status, said = fails(tmp_path, "key", "list", "--pin", "pass:1234")
    assert status == 4 and "CKR_PIN_LOCKED" in said and "--init-pin" in said
    done = subprocess.run([CONCLAVE, "doctor"], capture_output=True, text=True,
                          env={**os.environ, "CONCLAVE_HOME": str(tmp_path)}, timeout=60)
    assert done.returncode == 1 and "locked" in done.stdout
