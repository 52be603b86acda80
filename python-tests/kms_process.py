"""What `test_managed_time.elsewhere` runs: logs in to a token and does things with its managed keys, one after
another. JSON comes in and goes out; bytes are {"hex": TEXT}."""

import json
import sys

from cryptoki import Error, Module
from kms import Kms
from material import bring


def decoded(value):
    if isinstance(value, dict) and set(value) == {"hex"}:
        return bytes.fromhex(value["hex"])
    return value


def encoded(value):
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    return [encoded(item) for item in value] if isinstance(value, (list, tuple)) else value


def main():
    request = json.load(sys.stdin)
    module = Module(request["module"])
    module.initialize()
    session = module.session(module.slot_of(request["label"]))
    session.login(request["pin"].encode())
    kms = Kms(session)
    answers = []
    for name, arguments, named in request["calls"]:
        arguments, named = [decoded(one) for one in arguments], {key: decoded(one) for key, one in named.items()}
        call = bring if name == "bring" else getattr(kms, name)
        try:
            answers.append(["CKR_OK", encoded(call(*([kms] if name == "bring" else []), *arguments, **named))])
        except Error as error:
            answers.append([error.name, str(error)])
    print(json.dumps(answers))
    module.finalize()


if __name__ == "__main__":
    main()
