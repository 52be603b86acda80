"""What `ceremony.elsewhere` runs: logs in to a token, executes commands, and tells the history. JSON comes in
and goes out."""

import json
import sys

from cryptoki import Error, Module


def main():
    request = json.load(sys.stdin)
    module = Module(request["module"])
    module.initialize()
    session = module.session(module.slot_of(request["label"]))
    session.login(request["pin"].encode(), request["user"])
    answers = []
    for command in request["commands"]:
        try:
            session.domain.execute(bytes.fromhex(command))
            answers.append("CKR_OK")
        except Error as error:
            answers.append(str(error))
    print(json.dumps([answers, session.domain.history().hex()]))
    module.finalize()


if __name__ == "__main__":
    main()
