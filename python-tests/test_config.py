"""The configuration file: what each key does, and what a wrong one gives. Each case is a process of
its own, since the module reads its configuration at C_Initialize. Keys about the HSM are options of
conclaved in a fleet."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from conftest import MODULE, PIN, SO_PIN

data_directory = pytest.mark.embedded("it is about the data directory")

PRELUDE = f"""
import os, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from cryptoki import *

SECRET = {{ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES}}
module = Module({str(MODULE)!r})

def begin():
    module.initialize()
    slot = module.slot_of("test")
    if slot is None:
        slot = module.make_token("test", {SO_PIN.encode()!r}, {PIN.encode()!r})
    session = module.session(slot)
    session.login({PIN.encode()!r})
    return session

def refused(call, *args):
    try:
        call(*args)
    except Error as error:
        return ck.name("CKR_", error.rv)
    return "accepted"
"""


@pytest.fixture
def python(tmp_path, own_fleet):
    """Runs a script with that configuration; (status, standard output, standard error). `hsm`: keys about the HSM."""
    fleets = {}

    def entry(hsm):
        options = {key: {True: "on"}.get(value, value) for key, value in hsm.items()}
        if str(hsm) not in fleets:
            fleets[str(hsm)] = own_fleet("test", **options)
        return fleets[str(hsm)].entry()

    def run_with(toml, script, hsm={}, **more):
        config = tmp_path / "conclave.toml"
        if toml is not None and own_fleet:
            config.write_text(textwrap.dedent(toml) + entry(hsm))
        elif toml is not None:
            keys = "".join(f"{key} = {json.dumps(value)}\n" for key, value in hsm.items())
            config.write_text(keys + textwrap.dedent(toml))
        env = {**os.environ, "CONCLAVE_HOME": str(tmp_path / "data"), "CONCLAVE_CONF": str(config), **more}
        done = subprocess.run([sys.executable, "-c", PRELUDE + textwrap.dedent(script)], capture_output=True, env=env,
                              timeout=60)
        return done.returncode, done.stdout.decode().split(), done.stderr.decode()

    return run_with


@data_directory
@pytest.mark.parametrize("toml, line, key", [
    ("free_slot = true\nfree_slots = false\n", 2, "free_slots"),
    ("free_slot = 3\n", 1, "free_slot"),
    ("gcm_zero_iv = 'maybe'\n", 1, "gcm_zero_iv"),
    ("[pin]\nmemory_kib = 19456\npasses = 0\n", 3, "passes"),
    ("free_slot = \n", 1, "free_slot"),
    ("[pin]\nmin_len = 20\nmax_len = 10\n", 2, "min_len"),
])
def test_wrong_configuration(python, tmp_path, toml, line, key):
    """Refused; the log names file, line and key; nothing is made elsewhere."""
    _, out, log = python(toml, "print(refused(module.initialize))")
    assert out == ["CKR_GENERAL_ERROR"]
    assert str(tmp_path / "conclave.toml") in log and f"line {line}" in log and key in log
    assert not (tmp_path / "data").exists()


@data_directory
def test_missing_configuration(python, tmp_path):
    _, out, log = python(None, "print(refused(module.initialize))")
    assert out == ["CKR_GENERAL_ERROR"] and str(tmp_path / "conclave.toml") in log


@data_directory
def test_data_directory_of_others(python, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o777)
    _, out, log = python("", "print(refused(module.initialize))")
    assert out == ["CKR_GENERAL_ERROR"] and "chmod 700" in log


@data_directory
def test_data_dir(python, tmp_path):
    """Beside the file if relative; CONCLAVE_HOME comes first."""
    python("data_dir = 'elsewhere'\n", "begin()", CONCLAVE_HOME="")
    assert any((tmp_path / "elsewhere").iterdir())
    assert not (tmp_path / "data").exists()


@data_directory
def test_free_slot(python):
    _, out, _ = python("", "begin(); print(len(module.slots()))")
    assert out == ["2"]
    _, out, _ = python("free_slot = false\n", "begin(); print(len(module.slots()))")
    assert out == ["1"]


def test_key_separation(python, own_fleet):
    script = """
    session = begin()
    both = session.generate(ck.CKM_AES_KEY_GEN, {ck.CKA_VALUE_LEN: 32, ck.CKA_WRAP: True, ck.CKA_DECRYPT: True})
    key = session.generate(ck.CKM_AES_KEY_GEN, {ck.CKA_VALUE_LEN: 32, ck.CKA_SENSITIVE: True, ck.CKA_EXTRACTABLE: True})
    print(refused(session.wrap, ck.CKM_AES_KEY_WRAP, both, key))
    """
    _, out, _ = python("", script)
    assert out == ["CKR_KEY_NOT_WRAPPABLE"]
    _, out, log = python("", script, {"key_separation": "off"})
    assert out == ["accepted"] and (own_fleet or "key_separation" in log)


def test_gcm_zero_iv(python):
    script = """
    session = begin()
    key = session.generate(ck.CKM_AES_KEY_GEN, {ck.CKA_VALUE_LEN: 32, ck.CKA_ENCRYPT: True, ck.CKA_DECRYPT: True})
    mechanism = gcm(bytes(12))
    sealed = session.encrypt(mechanism, key, b"data")
    iv = mechanism.alive[0].raw[:12]
    print(iv == bytes(12))
    print(session.decrypt(gcm(iv), key, sealed) == b"data")
    """
    _, out, _ = python("", script)
    assert out == ["True", "True"]
    _, out, log = python("gcm_zero_iv = 'generate'\n", script)
    assert out == ["False", "True"], log


@pytest.mark.parametrize("hsm", [{}, {"pkcs1_unwrap": True, "cbc_pad_unwrap": True}])
def test_unwrapping_oracles(python, hsm):
    _, out, _ = python("", """
    session = begin()
    public, private = session.generate_pair(ck.CKM_RSA_PKCS_KEY_PAIR_GEN, {ck.CKA_MODULUS_BITS: 2048, ck.CKA_ENCRYPT: True},
                                            {ck.CKA_UNWRAP: True})
    sealed = session.encrypt(ck.CKM_RSA_PKCS, public, bytes(32))
    print(refused(session.unwrap, ck.CKM_RSA_PKCS, private, sealed, SECRET))
    kek = session.generate(ck.CKM_AES_KEY_GEN, {ck.CKA_VALUE_LEN: 32, ck.CKA_WRAP: True, ck.CKA_UNWRAP: True})
    key = session.generate(ck.CKM_AES_KEY_GEN, {ck.CKA_VALUE_LEN: 32, ck.CKA_SENSITIVE: False, ck.CKA_EXTRACTABLE: True})
    cbc = Mechanism(ck.CKM_AES_CBC_PAD, bytes(16))
    print(refused(session.unwrap, cbc, kek, session.wrap(cbc, kek, key), SECRET))
    """, hsm)
    assert out == (["accepted"] * 2 if hsm else ["CKR_MECHANISM_INVALID"] * 2)


def test_pin_policy(python):
    _, out, _ = python("[pin]\nmin_len = 6\nmax_len = 12\n", f"""
    session = begin()
    info = module.token_info(module.slot_of("test"))
    print(info.ulMinPinLen, info.ulMaxPinLen)
    old = {PIN.encode()!r}
    for new in (b"12345", b"x" * 13, b"123456"):
        print(refused(session.call, "C_SetPIN", old, ctypes.c_ulong(len(old)), new, ctypes.c_ulong(len(new))))
    """)
    assert out == ["6", "12", "CKR_PIN_LEN_RANGE", "CKR_PIN_LEN_RANGE", "accepted"]


def test_log(python, tmp_path):
    """A file that is appended to; secrets are never in it."""
    for _ in range(2):
        python("log = 'log'\nlog_level = 'trace'\n", "session = begin(); refused(session.login, b'wrong-pin-7351')")
    text = (tmp_path / "log").read_text()
    assert text
    assert PIN not in text and SO_PIN not in text and "wrong-pin-7351" not in text
    assert (tmp_path / "log").stat().st_mode & 0o077 == 0
