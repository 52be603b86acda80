"""A process that uses the module with one configuration after another: what a fleet's operators do.

Reads lines of JSON `{conf, home, slot, steps: [[name, argument...]...]}` from its standard input, bytes in hexadecimal,
and answers each with a line: a list with the steps' results, or `{"error": text}`."""

import json
import os
import sys

from cryptoki import Module, ck

ROLES = {"SO": (ck.CKU_SO, None), "user": (ck.CKU_USER, None)}


def take(domain, name, arguments):
    if name == "execute":
        domain.execute(bytes.fromhex(arguments[0]))
    elif name == "set_pin":
        role, pin, code = arguments
        user, named = ROLES.get(role, (ck.CKU_USER, role.encode()))
        domain.set_enrolled_pin(pin.encode(), user, named, code.encode())
    elif name == "token":
        return domain.export_token().hex()
    elif name == "history":
        return domain.history().hex()
    elif name == "describe":
        return domain.describe()
    return None


def serve(job):
    os.environ["CONCLAVE_CONF"] = job["conf"]
    module.initialize()
    try:
        with module.session(job["slot"]) as session:
            return [take(session.domain, name, arguments) for name, *arguments in job["steps"]]
    finally:
        module.finalize()


if __name__ == "__main__":
    module = Module(sys.argv[1])
    for line in sys.stdin:
        try:
            answer = serve(json.loads(line))
        except Exception as error:  # noqa: BLE001  # the caller says it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
