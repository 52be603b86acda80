"""Host processes for the tests of fleets, and waiting."""

import json
import os
import pathlib
import select
import subprocess
import sys
import time

from conftest import MODULE

FIRST_SLOT = 1 << 30


class HostProcess:
    """A process with a configuration of its own, whose user is logged in."""

    def __init__(self, directory, name, entry, pin):
        self.home = pathlib.Path(directory, name)
        self.home.mkdir(mode=0o700)
        conf = self.home / "conclave.toml"
        conf.write_text("embedded = false\n" + entry)
        self.log = self.home / "log"
        environment = {**os.environ, "CONCLAVE_CONF": str(conf), "CONCLAVE_HOME": str(self.home)}
        with open(self.log, "wb") as log:
            command = [sys.executable, "fleet_host.py", str(MODULE), str(FIRST_SLOT), pin]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                                            cwd=pathlib.Path(__file__).parent, env=environment)
        self.answer(60)

    def tell(self, name, *arguments):
        self.process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self.process.stdin.flush()

    def answer(self, seconds=60):
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        assert ready, "a call does not return"
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        return json.loads(line)

    def do(self, name, *arguments, seconds=60):
        """What a call gives, or the name of its return code."""
        self.tell(name, *arguments)
        answer = self.answer(seconds)
        return answer.get("ok", answer.get("error"))

    def close(self):
        self.process.stdin.close()
        if self.process.wait(30):
            raise AssertionError(self.log.read_text())


def wait_until(holds, seconds=20):
    """Waits until `holds()`; what it gives then."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return found
