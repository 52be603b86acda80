"""A process in which another user of a token is logged in. Calls come in as JSON lines, answers go out; bytes are
{"hex": ...}. A call is [name, arguments, members]: a function of this file, else a method of the session's Kms, else of
the session."""

import json
import os
import sys
from ctypes import c_ulong

from cryptoki import Error, Mechanism, Module, ck
from kms import Kms
from material import bring  # noqa: F401  # to be called by its name


def pack(value):
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, (list, tuple)):
        return [pack(one) for one in value]
    if isinstance(value, dict):
        return {name: pack(one) for name, one in value.items()}
    return value


def unpack(value):
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"]) if list(value) == ["hex"] else {k: unpack(v) for k, v in value.items()}
    return [unpack(one) for one in value] if isinstance(value, list) else value


def log_in(session, name, pin):
    """`name`: "so", "user", or a named user's."""
    if name in ("so", "user"):
        return session.login(pin.encode(), ck.CKU_SO if name == "so" else ck.CKU_USER)
    return session.call("C_LoginUser", c_ulong(ck.CKU_USER), pin.encode(), c_ulong(len(pin)), name.encode(),
                        c_ulong(len(name)))


def log_in_again(kms, name, pin):
    """Whether or not the login has ended already."""
    try:
        kms.session.logout()
    except Error as error:
        if error.name != "CKR_USER_NOT_LOGGED_IN":
            raise
    log_in(kms.session, name, pin)


def create_user(kms, name, pin):
    name, pin = name.encode(), pin.encode()
    kms.session.call("KMS_CreateUser", name, c_ulong(len(name)), pin, c_ulong(len(pin)))


def remove_user(kms, name):
    kms.session.call("KMS_RemoveUser", name.encode(), c_ulong(len(name.encode())))


def standard(kms, function, key, half, mechanism, data, *more):
    """A function of the standard with one of the key's objects; the mechanism is its number."""
    parameters = {ck.CKM_RSA_PKCS_OAEP: [ck.CKM_SHA256, ck.CKG_MGF1_SHA256, ck.CKZ_DATA_SPECIFIED, ("pointer", None), 0]}
    call = getattr(kms.session, function)
    return call(Mechanism(mechanism, parameters.get(mechanism)), kms.objects(key)[half], data, *more)


def agree(kms, key, point):
    parameter = [ck.CKD_NULL, 0, ("pointer", None), len(point), ("pointer", point)]
    kms.session.derive(Mechanism(ck.CKM_ECDH1_DERIVE, parameter), kms.objects(key)[0], {
        ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_GENERIC_SECRET, ck.CKA_VALUE_LEN: 32})


def instance(kms):
    """Of the HSM, as approvals name it."""
    return kms.session.domain.describe()["instance"]


def label(kms, key, text):
    kms.session.set(kms.objects(key)[0], {ck.CKA_LABEL: text})


def attribute(kms, key, kind):
    return kms.session.get(kms.objects(key)[0], kind)


def ordinary(kms, name, make):
    """An AES key of that label, made or found: what it encrypts a block of zeros to."""
    if make:
        kms.session.generate(ck.CKM_AES_KEY_GEN, {
            ck.CKA_TOKEN: True, ck.CKA_LABEL: name, ck.CKA_VALUE_LEN: 32, ck.CKA_ENCRYPT: True})
    [handle] = kms.session.find({ck.CKA_LABEL: name})
    return kms.session.encrypt(ck.CKM_AES_ECB, handle, bytes(16))


def main():
    path, token, name, pin = sys.argv[1:]
    module = Module(path)
    module.initialize()
    session = module.session(module.slot_of(token))
    log_in(session, name, pin)
    kms = Kms(session)
    # What the module says on the standard output is no answer.
    answers = os.fdopen(os.dup(1), "w")
    print("null", file=answers, flush=True)
    for line in sys.stdin:
        called, arguments, members = json.loads(line)
        here = globals().get(called)
        call = here or getattr(kms, called, None) or getattr(session, called)
        try:
            value = call(*([kms] if here else []), *unpack(arguments), **unpack(members))
            answer = {"value": pack(value)}
        except Error as error:
            answer = {"refused": error.name, "says": str(error)}
        print(json.dumps(answer), file=answers, flush=True)
    module.finalize()


if __name__ == "__main__":
    main()
