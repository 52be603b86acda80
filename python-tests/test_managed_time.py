"""What time does to managed keys: deletions, expiring material, rotations. Other processes live at another time, by
`faketime`; they and this one share the token."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ceremony import edit
from conftest import FLEETS, MODULE, PIN, need, run
from cryptoki import ck
from kms_process import decoded, encoded
from managed import DAY, now, open_kms, refused
from material import MATERIAL, bring, wrap
from peer.envelope import name_of

LABEL = "time"
HOUR = 3600


@pytest.fixture(scope="module")
def kms(module):
    need("faketime")
    return open_kms(module, LABEL)


def call(name, *arguments, **named):
    return [name, [encoded(one) for one in arguments], {key: encoded(one) for key, one in named.items()}]


def elsewhere(seconds, *calls):
    """The answers to calls that another process makes so many seconds from now: [name of the return code, value]."""
    request = {"module": str(MODULE), "label": LABEL, "pin": PIN, "calls": calls}
    with there(seconds) as environment:
        done = subprocess.run(
            ["faketime", "--exclude-monotonic", "-f", f"{seconds:+d}s", sys.executable, "kms_process.py"],
            input=json.dumps(request), text=True, capture_output=True, cwd=Path(__file__).parent, check=False, timeout=120,
            env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return [[code, decoded(value)] for code, value in json.loads(done.stdout)]


@contextlib.contextmanager
def there(seconds):
    """The environment of a process at another time: in a fleet it has an HSM of that time."""
    if not FLEETS:
        yield {}
        return
    (fleet,) = [made for made in FLEETS.made if made.label == LABEL]
    hsm = fleet.start_hsm(ahead=seconds)
    conf = fleet.directory / "elsewhere.toml"
    conf.write_text("embedded = false\n" + fleet.entry(hsms=[hsm.address]))
    try:
        yield {"CONCLAVE_CONF": str(conf)}
    finally:
        hsm.kill()


def objects(kms):
    """How many records there are in the store."""
    slot, query = kms.session.module.slot_of(LABEL), "SELECT count(*) FROM objects"
    database = FLEETS.fleet(slot).database if FLEETS else f"sqlite:{os.environ['CONCLAVE_HOME']}/tokens/{slot}"
    if database.startswith("sqlite:"):
        ((count,),) = edit(Path(database.removeprefix("sqlite:"), "token.db"), [query])
        return count
    return int(run("psql", "--no-psqlrc", "--tuples-only", database, "--command", query))


def test_a_deletion_is_carried_out_when_it_is_due(kms):
    before = objects(kms)
    key, pair = kms.create(), kms.create("ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
    for _ in range(3):
        kms.rotate(key)
    for n in range(2):
        kms.create_alias(f"alias/doomed-{n}", key)
    blob = kms.encrypt(key, b"gone with it")
    assert objects(kms) == before + 1 + 3 + 2 + 2
    kms.schedule_deletion(key, 7)
    kms.schedule_deletion(pair, 8)
    date = kms.describe(key)["DeletionDate"]
    assert abs(date - now() - 7 * DAY) < 100
    (code, said), (refusal, _) = elsewhere(7 * DAY - HOUR, call("describe", key), call("decrypt", blob))
    assert (code, said["KeyState"], refusal) == ("CKR_OK", "PendingDeletion", "KMS_R_INVALID_STATE")
    assert objects(kms) == before + 8

    answers = elsewhere(7 * DAY + HOUR, call("describe", key), call("describe", pair), call("decrypt", blob),
                        call("cancel_deletion", key), call("describe", "alias/doomed-0"), call("keys"), call("aliases"))
    assert [code for code, _ in answers] == ["KMS_R_NOT_FOUND", "CKR_OK", "KMS_R_NOT_FOUND", "KMS_R_NOT_FOUND",
                                             "KMS_R_NOT_FOUND", "CKR_OK", "CKR_OK"]
    assert key not in json.dumps(answers[5:]) and pair in json.dumps(answers[5])
    assert objects(kms) == before + 2
    # Also for the process that had it open.
    for ask in (lambda: kms.describe(key), lambda: kms.decrypt(blob), lambda: kms.describe("alias/doomed-1")):
        with refused("KMS_R_NOT_FOUND"):
            ask()
    assert kms.objects(key) == []
    elsewhere(9 * DAY)
    assert objects(kms) == before and kms.objects(pair) == []


def test_what_is_due_is_done_on_request(kms):
    """Also by a process that was logged in before: RunDue, or the use of the key itself."""
    key, other = kms.create(), kms.create()
    kms.schedule_deletion(key, 7)
    kms.cancel_deletion(key)
    kms.schedule_deletion(other, 7)
    elsewhere(100 * DAY, call("run_due", dry_run=True))
    answers = elsewhere(100 * DAY, call("run_due"), call("describe", key), call("describe", other))
    assert [code for code, _ in answers] == ["CKR_OK", "CKR_OK", "KMS_R_NOT_FOUND"]
    assert answers[1][1]["KeyState"] == "Disabled"
    kms.enable(key)
    assert kms.decrypt(kms.encrypt(key, b"alive")) == b"alive"


def test_material_expires(kms):
    key, material = kms.create(Origin="EXTERNAL"), MATERIAL["AES_256"]()
    pair = kms.create("ECC_NIST_P256", KeyUsage="SIGN_VERIFY", Origin="EXTERNAL")
    bring(kms, key, material, valid_to=now() + 10 * DAY)
    bring(kms, pair, MATERIAL["ECC_NIST_P256"](), valid_to=now() + 10 * DAY)
    blob = kms.encrypt(key, b"kept")
    answers = elsewhere(10 * DAY - HOUR, call("decrypt", blob), call("keys", ExpiringWithinDays=1), call("describe", key))
    assert answers[0] == ["CKR_OK", b"kept"]
    assert {key, pair} <= {each["KeyId"] for each in answers[1][1]}
    assert answers[2][1]["KeyState"] == "Enabled"

    answers = elsewhere(10 * DAY + HOUR, call("describe", key), call("decrypt", blob), call("encrypt", key, b"x"),
                        call("data_key", key), call("describe", pair))
    assert answers[0][1]["KeyState"] == answers[4][1]["KeyState"] == "PendingImport" and "ValidTo" not in answers[0][1]
    assert [code for code, _ in answers[1:4]] == ["KMS_R_INVALID_STATE"] * 3
    # It is gone, not hidden: the clock that is right again does not bring it back.
    assert kms.describe(key)["KeyState"] == "PendingImport"
    with refused("KMS_R_INVALID_STATE"):
        kms.decrypt(blob)
    answers = elsewhere(11 * DAY, call("bring", key, bytes(32)), call("bring", key, material), call("decrypt", blob))
    assert [code for code, _ in answers] == ["KMS_R_INCORRECT_KEY_MATERIAL", "CKR_OK", "CKR_OK"]
    assert answers[2][1] == b"kept" and kms.decrypt(blob) == b"kept"


def test_import_tokens_expire(kms):
    key, material = kms.create(Origin="EXTERNAL"), MATERIAL["AES_256"]()
    public, token, until = kms.import_parameters(key)
    wrapped = wrap(public, material)
    assert elsewhere(DAY + HOUR, call("import_material", key, token, wrapped))[0][0] == "KMS_R_EXPIRED_IMPORT_TOKEN"
    assert elsewhere(DAY - HOUR, call("import_material", key, token, wrapped))[0][0] == "CKR_OK"
    assert kms.describe(key)["KeyState"] == "Enabled"


def test_a_key_rotates_by_period(kms):
    key, disabled, plain = kms.create(), kms.create(), kms.create()
    for each in key, disabled:
        kms.set_rotation(each, 90)
    kms.disable(disabled)
    blob = kms.encrypt(key, b"of the first")
    answers = elsewhere(90 * DAY - HOUR, call("encrypt", key, b"x"), call("describe", key))
    assert name_of(answers[0][1])[1] == 1 and answers[1][1]["KeyVersion"] == 1
    answers = elsewhere(90 * DAY + HOUR, call("encrypt", key, b"x"), call("decrypt", blob), call("describe", key),
                        call("rotations", key), call("describe", disabled), call("describe", plain))
    assert name_of(answers[0][1])[1] == 2 and answers[1][1] == b"of the first"
    said = answers[2][1]
    assert said["KeyVersion"] == 2 and abs(said["RotationDate"] - now() - 90 * DAY - HOUR) < 100
    assert abs(said["NextRotationDate"] - now() - 180 * DAY - HOUR) < 2 * HOUR
    assert [each["KeyVersion"] for each in answers[3][1]] == [1, 2]
    assert (answers[4][1]["KeyVersion"], answers[5][1]["KeyVersion"]) == (1, 1)
    # This process, which knew the first version, uses the second.
    assert name_of(kms.encrypt(key, b"x"))[1] == 2 and kms.decrypt(blob) == b"of the first"
    assert kms.session.get_number(kms.objects(key)[0], ck.CKA_KMS_VERSION) == 2
    # However long nobody came: one rotation, not one for each period.
    answers = elsewhere(1000 * DAY, call("encrypt", key, b"x"), call("decrypt", answers[0][1]))
    assert name_of(answers[0][1])[1] == 3 and answers[1][1] == b"x"
