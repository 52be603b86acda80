"""Users in processes of their own."""

import json
import os
import pathlib
import subprocess
import sys

from conftest import MODULE
from other_user import pack, unpack


class User:
    """A process with this configuration, or this process's, in which somebody is logged in (other_user.py).
    `user.name(...)` calls there; `refusal` tells why it is refused."""

    def __init__(self, conf, label, name, pin):
        command = [sys.executable, "other_user.py", str(MODULE), label, name, pin]
        self.process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        cwd=pathlib.Path(__file__).parent,
                                        env={**os.environ, **({"CONCLAVE_CONF": str(conf)} if conf else {})})
        assert self.process.stdout.readline() == "null\n", f"{name} did not log in"

    def call(self, name, *arguments, **members):
        print(json.dumps([name, pack(arguments), pack(members)]), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def __getattr__(self, name):
        def call(*arguments, **members):
            answer = self.call(name, *arguments, **members)
            assert "refused" not in answer, answer
            return unpack(answer["value"])
        return call

    def refusal(self, name, *arguments, **members):
        return self.call(name, *arguments, **members).get("refused", "CKR_OK")

    def says(self, name, *arguments, **members):
        return self.call(name, *arguments, **members)["says"]

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(60) == 0
