"""What time does to a domain: enrolments, deadlines, the standing order, copies that lag behind."""

import concurrent.futures
import os
import time
from ctypes import c_ulong

import pytest
from ceremony import DAY, Ceremony, copy_of_home, elsewhere
from conftest import PIN
from cryptoki import Error, ck
from peer.encoding import decode, encode
from peer.log import History, enrolment_hash

KEY = b"k" * 16
CODE = b"a code of 128 bits"
AES = {ck.CKA_TOKEN: True, ck.CKA_VALUE_LEN: 32, ck.CKA_ENCRYPT: True, ck.CKA_DECRYPT: True}


def now():
    return int(time.time())


def refused(sentence):
    return pytest.raises(Error, match=sentence)


def until(done, seconds=20):
    """Waits until something is so."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_enrolments(module):
    token = Ceremony(module, "enrolments").found()
    by = [token.anna, token.ben]
    code = enrolment_hash(token.state.domain, CODE)
    write_protected = "CKR_TOKEN_WRITE_PROTECTED"
    with refused(f"{write_protected}.*no command allows a new PIN now"):
        token.domain.set_enrolled_pin(b"new-pin", code=CODE)

    # With a code: once, by whoever shows it, while it is open.
    token.execute("reset PIN", 1, None, [code, now() + DAY], by=by)
    with refused("the enrolment code is wrong"):
        token.domain.set_enrolled_pin(b"new-pin", code=CODE[:-1])
    with refused("the enrolment code is wrong"):
        token.domain.set_enrolled_pin(b"new-pin")
    with refused("CKR_PIN_LEN_RANGE"):
        token.domain.set_enrolled_pin(b"new", code=CODE)
    token.session.logout()
    with refused("CKR_USER_PIN_NOT_INITIALIZED|CKR_PIN_INCORRECT"):
        token.login(PIN, ck.CKU_USER)
    token.login()
    before = token.state
    token.domain.set_enrolled_pin(b"new-pin", code=CODE)
    token.check_step(before)
    with refused("no command allows a new PIN now|the enrolment code is wrong"):
        token.domain.set_enrolled_pin(b"another", code=CODE)
    token.session.logout()
    token.login("new-pin", ck.CKU_USER)

    # The holder's own change needs no command; a reset ends his login.
    before = token.state
    token.session.call("C_SetPIN", b"new-pin", c_ulong(7), b"own-pin", c_ulong(7))
    assert token.check_step(before).name == "PIN set"
    token.session.generate(ck.CKM_AES_KEY_GEN, AES)
    token.execute("reset PIN", 1, None, [None, now() + 1], by=by)
    with refused("CKR_USER_NOT_LOGGED_IN"):
        token.session.generate(ck.CKM_AES_KEY_GEN, AES)
    token.login()

    # It ends.
    time.sleep(2.1)
    with refused("the enrolment has ended"):
        token.domain.set_enrolled_pin(b"too-late")
    with refused(f"{write_protected}|CKR_FUNCTION_REJECTED.*the enrolment has ended"):
        token.init_pin("too-late")
    token.execute("reset PIN", 1, None, [None, now() + DAY], by=by)
    token.init_pin(PIN)
    token.logs_in()
    token.history()


def test_named_users(module):
    token = Ceremony(module, "named").found()
    by = [token.anna, token.ben]
    code = enrolment_hash(token.state.domain, CODE)
    token.execute("create user", 2, "otto", [code, now() + DAY], by=by)
    before = token.state
    token.domain.set_enrolled_pin(b"otto-pin", name=b"otto", code=CODE)
    token.check_step(before)
    token.session.logout()
    token.login_named("otto", "otto-pin")
    token.execute("remove user", 2, "otto", by=by)
    with refused("CKR_USER_NOT_LOGGED_IN"):
        token.session.generate(ck.CKM_AES_KEY_GEN, AES)
    with refused("CKR_USER_PIN_NOT_INITIALIZED|CKR_PIN_INCORRECT|CKR_USER_TYPE_INVALID"):
        token.login_named("otto", "otto-pin")
    token.login()
    token.logs_in()


def encrypt(token):
    """What the user's only key makes of zeros."""
    (key,) = token.session.find({ck.CKA_CLASS: ck.CKO_SECRET_KEY})
    return token.session.encrypt(ck.CKM_AES_ECB, key, bytes(16))


def test_deadlines_and_the_standing_order(module):
    """Entries without a command, made by the module and verified by the peer."""
    token = Ceremony(module, "deadlines").found()
    by = [token.anna, token.ben]
    token.session.logout()
    token.login(PIN, ck.CKU_USER)
    token.session.generate(ck.CKM_AES_KEY_GEN, AES)
    sealed = encrypt(token)
    (old,) = [each.id for each in token.state.domain_keys if each.status == 0]
    token.execute("rotate domain key", None, by=by)
    until(lambda: not token.domain.describe()["records"].get(old.hex()))
    token.execute("schedule retirement", old, now() + 2, by=by)
    time.sleep(2.5)
    before = token.state
    token.session.logout()
    token.login(PIN, ck.CKU_USER)
    until(lambda: token.state.version > before.version)
    assert token.history().steps[-1].name == "retirement"
    assert old not in [each.id for each in token.state.domain_keys]
    assert encrypt(token) == sealed

    # A rotation is due at once if the active key is old enough, else at a login when it is.
    token.domain.execute(token.command("standing order", [2, 1, DAY, now() + DAY], by=by))
    time.sleep(2.2)
    token.session.logout()
    token.login(PIN, ck.CKU_USER)
    until(lambda: "standing order" in [step.name for step in token.history().steps if step.command is None])
    token.domain.execute(token.command("standing order", None, by=by))
    assert encrypt(token) == sealed
    token.logs_in()


@pytest.mark.embedded("a fleet's HSMs and hosts are brought forward from its store")
def test_an_older_copy_is_brought_forward(module):
    """By a history of what was done elsewhere, and by none that is altered."""
    token = Ceremony(module, "older").found()
    by = [token.anna, token.ben]
    other = Ceremony(module, "older, another").found()
    copied = copy_of_home(os.environ["CONCLAVE_HOME"])
    commands = [token.command("trust key", bytes([n]) * 16, True, by=by) for n in (1, 2)]
    said, history = elsewhere(copied, token.label, *commands)
    assert said == ["CKR_OK"] * 2
    state = token.state
    origin, entries, newest = decode(history)
    altered = [
        [origin, entries[:-1], newest], [origin, entries[:-2] + entries[-1:], newest], [origin, entries, origin],
        [origin, entries[:-2] + entries[:-3:-1], newest], [newest, [], newest],
    ]
    bad = [*map(encode, altered), other.domain.history(), token.domain.history(), history[:-1], history + b"\0", b""]
    # What this copy knows already is not read again.
    for at in range(history.index(entries[-2]), len(history), 97):
        changed = bytearray(history)
        changed[at] ^= 1 << at % 8
        bad.append(bytes(changed))
    allowed = {ck.CKR_FUNCTION_REJECTED, ck.CKR_DATA_INVALID, ck.CKR_TOKEN_NOT_RECOGNIZED, ck.CKR_ARGUMENTS_BAD}
    for number, each in enumerate(bad):
        with pytest.raises(Error) as caught:
            token.domain.import_history(each)
            raise AssertionError(f"history {number} was taken")
        assert caught.value.rv in allowed, caught.value
    assert token.state.encode() == state.encode()
    token.domain.import_history(history)
    assert token.domain.history() == history and token.state.hash() == History(history).newest.hash
    token.execute("trust key", KEY, True, by=by)
    token.logs_in()


def test_processes_govern_at_once(module):
    """Several processes execute commands at the same time; none is lost, and the log has them one by one."""
    token = Ceremony(module, "at once").found()
    by = [token.anna, token.ben]
    commands = [[token.command("trust key", bytes([process, n]) * 8, True, by=by) for n in range(8)] for process in range(4)]
    commands[0].insert(3, token.command("rotate domain key", None, by=[token.anna]))
    before = len(token.history().steps)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        runs = [pool.submit(elsewhere, os.environ["CONCLAVE_HOME"], token.label, *each) for each in commands]
        said = [run.result()[0] for run in runs]
    assert said == [["CKR_OK"] * len(each) for each in commands]
    assert len(token.history().steps) == before + sum(map(len, commands))
    assert len(token.state.trusted_keys) == 32
    token.logs_in()
