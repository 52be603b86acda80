"""The README's recipes, run as they stand, and its table of mechanisms compared with the module."""

import os
import re
import subprocess
import sys

import pytest

import vectors
from conftest import MODULE, ROOT, need
from cryptoki import Error, ck

pytestmark = pytest.mark.embedded("the commands of the README are about a data directory")

README = (ROOT / "README.md").read_text()
SECTIONS = ("Use it", "Managed keys", "From one security officer to a quorum", "Several Regions")
USE = "".join(README.split(f"\n## {section}\n")[1].split("\n## ")[0] for section in SECTIONS)


def blocks():
    """(id, language, text) of each fenced block below a heading of the sections."""
    for part in USE.split("\n### ")[1:]:
        heading = part.splitlines()[0]
        for number, (language, text) in enumerate(re.findall(r"^```(sh|python)\n(.*?)^```", part, re.M | re.S)):
            yield pytest.param(language, text, id=f"{heading}-{number}".replace(" ", "-"))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A home directory with nothing in it."""
    home = tmp_path_factory.mktemp("readme")
    tools = {MODULE.parent, ROOT / "target/release"}
    environment = {
        "HOME": str(home), "MODULE": str(MODULE), "LC_ALL": "C.UTF-8",
        "PATH": ":".join([str(path) for path in tools] + [os.environ["PATH"]]),
    }
    return home, environment


# In the order of the README: each uses what the ones before it made.
@pytest.mark.parametrize("language, text", list(blocks()))
def test_recipe(workplace, language, text):
    home, environment = workplace
    need("pkcs11-tool", "openssl", "ssh-keygen", "p11tool", "certtool", "certutil", "modutil", "keytool", "p11-kit")
    if language == "python":
        command = [sys.executable, "-c", text]
    else:
        command = ["bash", "-euc", "shopt -s expand_aliases\n" + text]
    if "p11-kit list-modules" in text and os.getuid() == 0:
        # Root's own configuration is not read; here it is not root.
        command = ["unshare", "--user", "--map-user=1000", *command]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, timeout=180, stdin=subprocess.DEVNULL)
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, said
    if "p11-kit list-modules" in text:
        assert "web" in said
    if "java_keys -list" in text:
        assert "web-java" in said
    if "certutil -S" in text:
        assert "web-nss" in said


def test_mechanism_table():
    """The table has the mechanisms of C_GetMechanismList, and for each what C_GetMechanismInfo says."""
    script = ROOT / "scripts/mechanisms.py"
    made = subprocess.run([sys.executable, script], capture_output=True, env={**os.environ, "CONCLAVE_MODULE": str(MODULE)})
    assert made.returncode == 0, made.stderr
    assert made.stdout.decode() == README, "run scripts/mechanisms.py --write"
    assert README.count("| `CKM_") > 60


# Tested by what their keys can do, not by vectors: what they give is random.
GENERATORS = {"CKM_AES_KEY_GEN", "CKM_GENERIC_SECRET_KEY_GEN", "CKM_HKDF_KEY_GEN", "CKM_RSA_PKCS_KEY_PAIR_GEN",
              "CKM_EC_KEY_PAIR_GEN", "CKM_EC_EDWARDS_KEY_PAIR_GEN", "CKM_EC_MONTGOMERY_KEY_PAIR_GEN"}


def test_every_mechanism_has_vectors(module, slot):
    import test_vectors_asymmetric
    import test_vectors_symmetric
    assert test_vectors_symmetric and test_vectors_asymmetric
    covered = {getattr(ck, name) for name in vectors.covered}
    missing = [ck.name("CKM_", kind) for kind in module.mechanisms(slot) if kind not in covered]
    missing = [name for name in missing if name not in GENERATORS and not re.fullmatch(r"CKM_SHA\w+_KEY_GEN", name)]
    # The vendor's own have theirs in test_envelope_vectors.py.
    missing = [name for name in missing if not name.startswith("CKM_KMS_")]
    assert not missing


def test_generators(session, module, slot):
    """Each key generator gives a different key each time, of the type and size asked for."""
    for kind in module.mechanisms(slot):
        if not module.mechanism_info(slot, kind).flags & ck.CKF_GENERATE or kind == ck.CKM_PKCS5_PBKD2:
            continue
        template = {ck.CKA_VALUE_LEN: 32, ck.CKA_SENSITIVE: False, ck.CKA_EXTRACTABLE: True}
        try:
            keys = [session.generate(kind, template) for _ in range(2)]
        except Error as error:
            raise AssertionError(ck.name("CKM_", kind)) from error
        values = [session.get(key, ck.CKA_VALUE) for key in keys]
        assert values[0] != values[1] and len(values[0]) == 32
        assert session.get_number(keys[0], ck.CKA_KEY_GEN_MECHANISM) == kind


def test_configuration_table_names_every_key():
    """Each key of the tables is accepted; see src/config.rs and src/config/fleet.rs for those there are."""
    source = (ROOT / "src/config.rs").read_text() + (ROOT / "src/config/fleet.rs").read_text()
    contents = "".join(source.split(f"struct {name} {{")[1].split("}")[0] for name in ("Contents", "PinTable", "Table"))
    keys = set(re.findall(r"^    (\w+):", contents, re.M)) - {"pin", "fleet"}
    table = README.split("## Configuration")[1].split("\n## ")[0]
    named = {key.split(".")[-1] for key in re.findall(r"`([\w.]+)`", "\n".join(
        line.split("|")[1] for line in table.splitlines() if line.startswith("| `")))}
    assert keys == named
