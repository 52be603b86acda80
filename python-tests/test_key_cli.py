"""Managed keys by the command line: each command, what it refuses, and how it speaks to scripts."""

import json
import os
import pty
import re
import shutil
import subprocess
import time

import pytest

from conftest import MODULE, PIN, SO_PIN, need, run

CONCLAVE = MODULE.with_name("conclave")
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32}")
NOT_FOUND = 3
REFUSED = 5
DAY = 86_400
# Days, after which keys that rotate every 90 days have done so.
LATER = 91


class Cli:
    """The command on a token `web` in a directory of its own."""

    def __init__(self, home, fleet=None):
        self.home, self.fleet = home, fleet
        self.env = {"CONCLAVE_HOME": str(home / "data"), "USER_PIN": PIN, "SO_PIN": SO_PIN}
        if fleet:
            # The store is that of the test; the HSMs are those of all.
            for name, hsm in zip(("conf", "later"), fleet.hsms):
                entry = fleet.entry([hsm.address], database=f"sqlite:{home}/data")
                (home / name).write_text(f"embedded = false\n{entry}")
            self.env |= {"CONCLAVE_CONF": str(home / "conf")}

    def at(self, ahead):
        """The environment of a process at another time."""
        return {**self.env, "CONCLAVE_CONF": str(self.home / "later")} if ahead and self.fleet else self.env

    def __call__(self, *args, pin=True, ahead=None, **kwargs):
        """What it says; `ahead` runs it so many days later."""
        login = ["--pin", "env:USER_PIN"] if pin else []
        earlier = ["faketime", "-f", f"+{ahead}d"] if ahead else []
        return run(*earlier, CONCLAVE, *args, *login, cwd=self.home, env=self.at(ahead), **kwargs)

    def json(self, *args, **kwargs):
        return json.loads(self(*args, "--json", **kwargs))

    def bytes(self, *args, input=b""):
        done = subprocess.run([CONCLAVE, *args, "--pin", "env:USER_PIN"], capture_output=True, cwd=self.home, check=True,
                              input=input, env={**os.environ, **self.env})
        return done.stdout

    def fails(self, *args, pin=True, input=b""):
        """Exit status and what was said to standard error."""
        login = ["--pin", "env:USER_PIN"] if pin else []
        done = subprocess.run([CONCLAVE, *map(str, args), *login], capture_output=True, cwd=self.home, timeout=120,
                              input=input, env={**os.environ, **self.env})
        assert done.returncode != 0, done.stdout
        assert not done.stdout, done.stdout
        return done.returncode, done.stderr.decode()

    def create(self, *args):
        return self.json("key", "create", *args)["KeyId"]

    def state(self, key):
        return self.json("key", "describe", key)["KeyState"]


@pytest.fixture(scope="module")
def made(tmp_path_factory, own_fleet):
    home = tmp_path_factory.mktemp("managed")
    if own_fleet:
        need("faketime")
        fleet = own_fleet("web", database=f"sqlite:{home}/data")
        fleet.create_user("anna", "anna-pin")
        # Beside the one whose clock is right.
        fleet.start_hsm(ahead=LATER * DAY)
        cli = Cli(home, fleet)
    else:
        cli = Cli(home)
        cli("token", "init", "--label", "web", "--so-pin", f"pass:{SO_PIN}", "--pin", f"pass:{PIN}", pin=False)
    cli("key", "create", "--alias", "files")
    return cli


@pytest.fixture
def cli(made, tmp_path):
    """A copy of a token with one key, alias/files."""
    shutil.copytree(made.home / "data", tmp_path / "data")
    return Cli(tmp_path, made.fleet)


def openssl(*args, **kwargs):
    need("openssl")
    return run("openssl", *args, **kwargs)


def test_create_and_describe(cli):
    key = cli.json("key", "create", "--spec", "ECC_NIST_P256", "--usage", "SIGN_VERIFY", "--label", "signing",
                   "--description", "of the shop", "--tag", "stage=live", "--tag", "owner=a=b", "--alias", "shop",
                   "--alias", "alias/shop/2")
    assert ID.fullmatch(key["KeyId"]) and key["KeySpec"] == "ECC_NIST_P256" and key["KeyState"] == "Enabled"
    assert key["Aliases"] == ["alias/shop", "alias/shop/2"] and key["Description"] == "of the shop"
    assert key["Label"] == "signing"
    assert {tag["TagKey"]: tag["TagValue"] for tag in key["Tags"]} == {"stage": "live", "owner": "a=b"}
    for name in (key["KeyId"], "shop", "alias/shop/2"):
        assert cli.json("key", "describe", name) == key
    text = cli("key", "describe", "shop")
    for words in (key["KeyId"], "Label        signing", "ECC_NIST_P256, for SIGN_VERIFY", "of the shop", "alias/shop, alias/shop/2", "stage=live",
                  "Enabled", "made in the HSM"):
        assert words in text, words
    assert cli.json("key", "create", "--multi-region")["KeyId"].startswith("mrk-")
    assert "AES_256 for ENCRYPT_DECRYPT. It is ready." in cli("key", "create")
    assert "import-parameters" in cli("key", "create", "--origin", "EXTERNAL")
    # A program of the standard finds it.
    need("pkcs11-tool")
    tool = ["pkcs11-tool", "--module", MODULE, "--login", "--pin", PIN]
    assert "signing" in run(*tool, "--list-objects", "--type", "privkey", env=cli.env)
    (cli.home / "digest").write_bytes(bytes(32))
    run(*tool, "--sign", "--mechanism", "ECDSA", "--label", "signing", "--input-file", cli.home / "digest",
        "--output-file", cli.home / "signature", env=cli.env)
    cli("key", "public-key", "shop", "--out", "shop.der")
    openssl("pkey", "-pubin", "-inform", "DER", "-in", "shop.der", "-noout", cwd=cli.home)
    assert cli.bytes("key", "public-key", "shop") == (cli.home / "shop.der").read_bytes()
    assert cli.fails("key", "public-key", "files")[0] == 3


def test_list_has_columns_of_managed_keys(cli):
    run("pkcs11-tool", "--module", MODULE, "--login", "--pin", PIN, "--keygen", "--key-type", "AES:32", "--label", "plain",
        "--sensitive", "--private", env=cli.env)
    pair = cli.create("--spec", "ECC_NIST_P384", "--usage", "SIGN_VERIFY", "--label", "pair")
    files = cli.json("key", "describe", "files")["KeyId"]
    cli("key", "disable", "files")
    ordinary, managed = cli("key", "list").split("MANAGED KEY")
    assert "plain" in ordinary and "pair" not in ordinary
    rows = {line.split()[0]: line for line in managed.splitlines()[1:]}
    assert set(rows) == {pair, files}
    assert rows[files].split()[1:] == ["Disabled", "AES_256", "ENCRYPT_DECRYPT", "alias/files"]
    assert "SIGN_VERIFY" in rows[pair] and "pair" in rows[pair]
    listed = cli.json("key", "list")
    kinds = [(entry["class"], entry.get("managed", {}).get("KeyId")) for entry in listed]
    assert sorted(kinds, key=str) == sorted([("secret key", None), ("secret key", files), ("public key", pair),
                                             ("private key", pair)], key=str)
    assert [entry["managed"]["Aliases"] for entry in listed if entry.get("managed", {}).get("KeyId") == files] == [
        ["alias/files"]]
    assert "no public object" in cli("key", "list", "--pin", "none", pin=False)
    assert files in cli("key", "show", files)


def test_disabled_keys_are_not_used(cli):
    assert "disabled" in cli("key", "disable", "files")
    status, said = cli.fails("key", "encrypt", "files", input=b"x")
    assert status == REFUSED and "KMS_R_DISABLED" in said and "conclave key enable" in said
    assert "is enabled" in cli("key", "enable", "files")
    cli.bytes("key", "encrypt", "files", input=b"x")


def test_deletion_waits_and_can_be_cancelled(cli):
    status, said = cli.fails("key", "delete", "files")
    assert status == 2 and "--yes" in said and cli.state("files") == "Enabled"
    for days in ("6", "31"):
        assert cli.fails("key", "delete", "files", "--days", days, "--yes")[0] == 2
    key = cli.json("key", "delete", "files", "--days", "7", "--yes")
    assert key["KeyState"] == "PendingDeletion" and abs(key["DeletionDate"] - time.time() - 7 * DAY) < 100
    assert "Deletion     on 2" in cli("key", "describe", "files")
    status, said = cli.fails("key", "tag", "files", "a=b")
    assert status == REFUSED and "KMS_R_INVALID_STATE" in said
    assert "conclave key enable" in cli("key", "cancel-deletion", "files")
    assert cli.state("files") == "Disabled"


@pytest.mark.parametrize("typed, status", [("files", 0), ("yes", 1)])
def test_deletion_is_confirmed_with_its_date(cli, typed, status):
    master, terminal = pty.openpty()
    child = subprocess.Popen([CONCLAVE, "key", "delete", "files", "--days", "30", "--pin", "env:USER_PIN"], stdin=terminal,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **cli.env})
    os.close(terminal)
    os.write(master, typed.encode() + b"\n")
    out, err = child.communicate(timeout=60)
    os.close(master)
    date = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 30 * DAY))
    assert child.returncode == status and date in err.decode() and b"alias/files" in err
    assert (b"will be deleted on" in out) == (status == 0)
    assert cli.state("files") == ("PendingDeletion" if status == 0 else "Enabled")


def test_what_is_due_is_done_for_cron(cli):
    need("faketime")
    cli("key", "rotation", "files", "--every", "90")
    doomed = cli.create("--alias", "doomed")
    cli("key", "delete", "doomed", "--days", "7", "--yes")
    assert "Nothing was due." in cli("key", "rotate", "--due")
    # Its own login leaves it all to the command, which tells what was done; a dry run does nothing.
    for dry_run in (True, False):
        said = cli.json("key", "rotate", "--due", *["--dry-run"] * dry_run, ahead=LATER)
        assert said == {"rotated": 1, "deleted": 1, "expired": 0, "failed": 0, "dry_run": dry_run}
    assert "Nothing was due." in cli("key", "rotate", "--due", ahead=LATER)
    described = cli.json("key", "describe", "files", ahead=LATER)
    assert described["KeyVersion"] == 2
    assert doomed not in cli("key", "list", ahead=LATER)
    told = [line.split()[1:3] for line in cli("audit", "list", ahead=LATER).splitlines()]
    assert ["-", "DeleteKey"] in told and ["-", "RotateKey"] in told


def test_the_audit_log_of_one_key_by_its_alias(cli):
    cli.bytes("key", "encrypt", "files", input=b"secret")
    header, *rows = cli("audit", "list", "--key", "files").splitlines()
    key = cli.json("key", "describe", "files")["KeyId"]
    assert rows and all(row.index(key) == header.index("KEY") for row in rows)
    status, said = cli.fails("audit", "list", "--key", "none")
    assert status == NOT_FOUND and "conclave alias list" in said


def test_rotation(cli):
    blob = cli.bytes("key", "encrypt", "files", input=b"before")
    assert cli.json("key", "rotate", "files")["KeyVersion"] == 2
    assert "version 3" in cli("key", "rotate", "files")
    assert cli.bytes("key", "decrypt", input=blob) == b"before"
    assert "every 200 days" in cli("key", "rotation", "files", "--every", "200")
    shown = cli.json("key", "rotation", "files")
    assert shown["KeyRotationEnabled"] is True and shown["RotationPeriodInDays"] == 200 and shown["Rotations"]
    assert "every 200 days" in cli("key", "rotation", "files")
    assert "on demand only" in cli("key", "rotation", "files", "--off")
    assert cli.fails("key", "rotation", "files", "--every", "89")[0] == 2
    cli("key", "create", "--standard-mechanisms", "--alias", "gcm")
    status, said = cli.fails("key", "rotate", "gcm")
    assert status == 1 and "KMS_R_UNSUPPORTED" in said and "alias" in said


def test_descriptions_and_tags(cli):
    cli("key", "set-description", "files", "new words")
    assert "2 tags" in cli("key", "tag", "files", "a=1", "b=2")
    assert cli.json("key", "tag", "files", "b=3")["Tags"] == [{"TagKey": "a", "TagValue": "1"},
                                                              {"TagKey": "b", "TagValue": "3"}]
    assert "1 tag." in cli("key", "untag", "files", "a")
    assert cli.json("key", "describe", "files")["Description"] == "new words"
    assert cli.fails("key", "tag", "files", "novalue")[0] == 2


def test_aliases(cli):
    other = cli.create()
    assert cli.json("alias", "create", "old/2026", "files")["AliasName"] == "alias/old/2026"
    names = {alias["AliasName"]: alias["TargetKeyId"] for alias in cli.json("alias", "list")}
    assert names["alias/old/2026"] == names["alias/files"] != other
    status, said = cli.fails("alias", "create", "files", other)
    assert status == 1 and "KMS_R_ALREADY_EXISTS" in said
    assert other in cli("alias", "update", "alias/files", other)
    assert [alias["AliasName"] for alias in cli.json("alias", "list", other)] == ["alias/files"]
    assert "alias/old/2026" in cli("alias", "list") and other in cli("alias", "list")
    cli("alias", "delete", "files")
    status, said = cli.fails("key", "describe", "files")
    assert status == 3 and "KMS_R_NOT_FOUND" in said and "conclave alias list" in said
    assert cli.fails("alias", "create", "no spaces", other)[0] == 1
    cli("alias", "delete", "old/2026")
    assert "no alias" in cli("alias", "list")


def test_a_small_secret_through_pipes_and_files(cli):
    context = ["--context", "customer=7", "--context", "kind=note"]
    blob = cli.bytes("key", "encrypt", "files", *context, input=b"secret\n")
    assert b"secret" not in blob
    assert cli.bytes("key", "decrypt", *reversed_pairs(context), input=blob) == b"secret\n"
    (cli.home / "blob").write_bytes(blob)
    said = cli.json("key", "decrypt", "--key", "files", *context, "--in", "blob", "--out", "note")
    assert said == {"file": "note", "bytes": 7} and (cli.home / "note").read_bytes() == b"secret\n"
    assert (cli.home / "note").stat().st_mode & 0o777 == 0o600
    status, said = cli.fails("key", "decrypt", "--in", "blob")
    assert status == 1 and "KMS_R_INVALID_CIPHERTEXT" in said and "--context" in said
    other = cli.create()
    status, said = cli.fails("key", "decrypt", "--key", other, *context, "--in", "blob")
    assert status == 1 and "KMS_R_INCORRECT_KEY" in said
    cli("key", "re-encrypt", other, "--source-context", "customer=7", "--source-context", "kind=note", "--in", "blob",
        "--out", "blob")
    assert (cli.home / "blob").read_bytes() != blob
    assert cli.bytes("key", "decrypt", "--key", other, "--in", "blob") == b"secret\n"
    status, said = cli.fails("key", "encrypt", "files", input=bytes(4097))
    assert status == 1 and "4096" in said
    assert cli.fails("key", "encrypt", "files", "--context", "a=1", "--context", "a=2")[0] == 2


def reversed_pairs(context):
    return context[2:] + context[:2]


def test_data_keys(cli):
    out = cli("key", "data-key", "files", "--plaintext-out", "data.key", "--blob-out", "data.blob", "--context", "a=b")
    key = (cli.home / "data.key").read_bytes()
    assert len(key) == 32 and "delete it" in out and (cli.home / "data.key").stat().st_mode & 0o777 == 0o600
    assert cli.bytes("key", "decrypt", "--context", "a=b", "--in", "data.blob") == key
    blob = cli.bytes("key", "data-key", "files", "--bytes", "64", "--blob-out", "-")
    assert len(cli.bytes("key", "decrypt", input=blob)) == 64
    said = cli.json("key", "data-key", "files", "--spec", "ECC_NIST_P256", "--plaintext-out", "pair.der", "--public-out",
                    "pair.pub", "--blob-out", "pair.blob")
    assert said["public"] == "pair.pub" and said["plaintext"] == "pair.der"
    made = openssl("pkey", "-inform", "DER", "-in", "pair.der", "-pubout", cwd=cli.home)
    assert made == openssl("pkey", "-pubin", "-inform", "DER", "-in", "pair.pub", "-pubout", cwd=cli.home)
    assert cli.bytes("key", "decrypt", "--in", "pair.blob") == (cli.home / "pair.der").read_bytes()
    assert cli.fails("key", "data-key", "files", "--bytes", "1025", "--blob-out", "x")[0] == 2
    assert cli.fails("key", "data-key", "files")[0] == 2


def test_bring_your_own_key(cli):
    key = cli.create("--origin", "EXTERNAL", "--alias", "brought")
    assert cli.state(key) == "PendingImport"
    status, said = cli.fails("key", "encrypt", "brought", input=b"x")
    assert status == REFUSED and "KMS_R_INVALID_STATE" in said
    said = cli.json("key", "import-parameters", "brought", "--wrapping-spec", "RSA_2048", "--public-key", "wrapping.der",
                    "--import-token", "import.token")
    assert said["KeyId"] == key and abs(said["ParametersValidTo"] - time.time() - DAY) < 100
    (cli.home / "material").write_bytes(bytes(range(32)))
    wrap = ["pkeyutl", "-encrypt", "-pubin", "-inkey", "wrapping.der", "-keyform", "DER", "-pkeyopt",
            "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256", "-pkeyopt", "rsa_mgf1_md:sha256"]
    openssl(*wrap, "-in", "material", "-out", "wrapped", cwd=cli.home)
    load = ["key", "import", "brought", "--import-token", "import.token", "--material", "wrapped"]
    assert "would be done" in cli(*load, "--dry-run") and cli.state(key) == "PendingImport"
    assert "without an end; it is Enabled" in cli(*load)
    blob = cli.bytes("key", "encrypt", "brought", input=b"x")

    status, said = cli.fails("key", "delete-material", "brought")
    assert status == 2 and "--yes" in said
    assert "no material" in cli("key", "delete-material", "brought", "--yes")
    assert cli.state(key) == "PendingImport"
    # The same again, with an end; never anything else.
    (cli.home / "other").write_bytes(bytes(32))
    openssl(*wrap, "-in", "other", "-out", "other.wrapped", cwd=cli.home)
    status, said = cli.fails("key", "import", "brought", "--import-token", "import.token", "--material", "other.wrapped")
    assert status == 1 and "KMS_R_INCORRECT_KEY_MATERIAL" in said
    said = cli.json(*load, "--valid-to", "+20d")
    assert said["KeyState"] == "Enabled" and abs(said["ValidTo"] - time.time() - 20 * DAY) < 100
    assert cli.bytes("key", "decrypt", input=blob) == b"x"
    assert key in cli("key", "list", "--expiring") and "within 10 days" in cli("key", "list", "--expiring", "10")
    assert [entry["KeyId"] for entry in cli.json("key", "list", "--expiring")] == [key]
    status, said = cli.fails("key", "import-parameters", "files", "--dry-run")
    assert status == 1 and "KMS_R_UNSUPPORTED" in said
    status, said = cli.fails("key", "import", "files", "--import-token", "import.token", "--material", "wrapped")
    assert status == 1 and "KMS_R_INVALID_IMPORT_TOKEN" in said
    (cli.home / "no.token").write_bytes(b"nothing")
    status, said = cli.fails("key", "import", "brought", "--import-token", "no.token", "--material", "wrapped")
    assert status == 1 and "KMS_R_INVALID_IMPORT_TOKEN" in said and "import-parameters" in said


def test_policies_and_grants(cli):
    if not cli.fleet:
        cli("user", "add", "anna", "--new-pin", "pass:anna-pin", "--so-pin", "env:SO_PIN", pin=False)
    anna = ["--login-as", "anna", "--pin", "pass:anna-pin"]
    blob = cli.bytes("key", "encrypt", "files", "--context", "customer=7", input=b"x")
    (cli.home / "blob").write_bytes(blob)
    decrypt = ["key", "decrypt", "--context", "customer=7", "--in", "blob", *anna]
    status, said = cli.fails(*decrypt, pin=False)
    assert status == REFUSED and "KMS_R_ACCESS_DENIED" in said and "policy show" in said

    grant = cli.json("grant", "create", "files", "--grantee", "user:anna", "--operations", "Decrypt,DescribeKey",
                     "--context-subset", "customer=7", "--name", "for-anna")["GrantId"]
    assert ID.fullmatch(grant)
    assert cli(*decrypt, pin=False) == "x"
    [listed] = cli.json("grant", "list", "files")
    assert listed["GrantId"] == grant and listed["GranteePrincipal"] == "user:anna"
    listing = cli("grant", "list", "files", "--so-pin", "env:SO_PIN", pin=False)
    assert grant in listing and "user:anna" in listing and 'contains {"customer":"7"}' in listing
    assert "revoked" in cli("grant", "revoke", "files", grant)
    assert cli.fails(*decrypt, pin=False)[0] == REFUSED
    assert cli.fails("grant", "revoke", "files", grant)[0] == 3
    mine = cli.json("grant", "create", "files", "--grantee", "user:anna", "--operations", "Decrypt,RetireGrant")["GrantId"]
    cli("grant", "retire", "files", mine, *anna, pin=False)
    assert "Nothing is granted" in cli("grant", "list", "files")

    shown = json.loads(cli("key", "policy", "show", "files", "--so-pin", "env:SO_PIN", pin=False))
    (cli.home / "policy").write_text(json.dumps(shown))
    cli("key", "policy", "set", "files", "policy")
    cli("key", "policy", "set", "files", input=json.dumps(shown).encode())
    status, said = cli.fails("key", "policy", "set", "files", input=b"not JSON")
    assert status == 2 and "JSON" in said
    status, said = cli.fails("key", "policy", "set", "files", input=b"{}")
    assert status == 1 and "KMS_R_MALFORMED_POLICY" in said


@pytest.mark.parametrize("command", [
    ["key", "create", "--alias", "x"], ["key", "disable", "files"], ["key", "delete", "files"], ["key", "rotate", "files"],
    ["key", "rotation", "files", "--every", "90"], ["key", "set-description", "files", "x"], ["key", "tag", "files", "a=b"],
    ["alias", "create", "x", "files"], ["alias", "delete", "files"], ["key", "encrypt", "files"],
    ["key", "data-key", "files"], ["grant", "create", "files", "--grantee", "user", "--operations", "Encrypt"],
])
def test_a_dry_run_changes_nothing(cli, command):
    before = cli.json("key", "describe", "files"), cli.json("alias", "list"), len(cli.json("key", "list"))
    assert "nothing has changed" in cli(*command, "--dry-run", input=b"")
    assert cli.json(*command, "--dry-run", input=b"") == {"dry_run": True}
    assert before == (cli.json("key", "describe", "files"), cli.json("alias", "list"), len(cli.json("key", "list")))


@pytest.mark.parametrize("args, status, words", [
    (["key", "describe", "nothing"], 3, "alias/nothing"),
    (["key", "describe", "11111111-2222-4333-8444-555555555555"], 3, "conclave key list"),
    (["key", "create", "--spec", "DES"], 1, "spec"),
    (["key", "create", "--spec", "RSA_2048"], 1, "usage"),
    (["key", "create", "--usage", "ALL"], 2, "SIGN_VERIFY"),
    (["key", "create", "--policy", "nowhere"], 3, "nowhere"),
    (["key", "create", "--threshold", "2"], 2, "--operators"),
    (["key", "rotate"], 2, "KEY"),
    (["key", "import", "files", "--import-token", "nowhere", "--material", "x"], 3, "nowhere"),
    (["key", "import", "files", "--import-token", "x", "--material", "x", "--valid-to", "soon"], 2, "+30d"),
    (["key", "describe", "files", "--token", "nowhere"], 3, "token list"),
    (["key", "cancel-deletion", "files"], REFUSED, "conclave key describe"),
])
def test_a_failure_says_what_and_what_to_do(cli, args, status, words):
    found, said = cli.fails(*args)
    assert found == status and words in said, said


def test_a_wrong_pin_is_told_apart(cli):
    assert cli.fails("key", "describe", "files", "--pin", "pass:000000", pin=False)[0] == 4
    found, said = cli.fails("key", "describe", "nothing", "--json")
    assert json.loads(said)["rv"] == "KMS_R_NOT_FOUND" and found == 3


COMMANDS = {
    "key": ["list", "show", "trust", "create", "describe", "public-key", "enable", "disable", "delete", "cancel-deletion",
            "set-description", "tag", "untag", "rotate", "rotation", "import-parameters", "import", "delete-material",
            "encrypt", "decrypt", "re-encrypt", "data-key"],
    "key policy": ["show", "set"],
    "alias": ["create", "update", "delete", "list"],
    "grant": ["create", "list", "retire", "revoke"],
}


@pytest.mark.parametrize("command", [f"{group} {name}" for group, names in COMMANDS.items() for name in names])
def test_help_has_examples(command):
    assert "Example" in run(CONCLAVE, *command.split(), "--help")
