"""What the tests of managed keys share: tokens of their own, times, refusals."""

import time

import pytest
from conftest import PIN, SO_PIN
from cryptoki import Error, Mechanism, ck
from kms import Kms

DAY = 24 * 3600


def now():
    return int(time.time())


def open_kms(module, label):
    """A new token whose user is logged in."""
    slot = module.make_token(label, SO_PIN.encode(), PIN.encode())
    session = module.session(slot)
    session.login(PIN.encode())
    return Kms(session)


def refused(name):
    """That the call fails with the return code of this name, and a sentence that says more."""
    return pytest.raises(Error, match=f": (?:{name}) ")


def outcome(call):
    """The name of the return code, "CKR_OK" for none."""
    try:
        call()
    except Error as error:
        return error.name
    return "CKR_OK"


def envelope(context=b""):
    return Mechanism(ck.CKM_KMS_ENVELOPE, Kms.context(context) if context else None)
