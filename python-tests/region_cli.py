"""Regions that are used by the command line, each with a data directory or fleet and a quorum of its own, and what
carries their messages."""

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.request

from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from conftest import MODULE, run
from fleet import Fleet

CONCLAVE = MODULE.with_name("conclave")
PROXY = MODULE.with_name("conclave-proxy")
PIN, SO_PIN, PASSPHRASE = "123456", "87654321", "correct horse"
NOT_FOUND, REFUSED, LATE = 3, 5, 6
PATIENCE = 60


class Region:
    """A token of its own in a directory, and two operators who decide."""

    people = ("anna", "ben")

    def __init__(self, name, place):
        self.name, self.place = name, place
        self.env = {"CONCLAVE_HOME": str(place / "data"), "USER_PIN": PIN, "SO_PIN": SO_PIN, "PASS": PASSPHRASE}

    def found(self):
        self("token", "init", "--label", self.name, "--so-pin", "env:SO_PIN", "--pin", "env:USER_PIN", pin=False)
        self.bare("domain", "export", "--out", "domain.token")
        found = []
        for person in self.people:
            keys = ["--keys", f"{person}.pem", "--passphrase", "env:PASS"]
            self.bare("operator", "keygen", "--out", *keys[1:])
            self.bare("operator", "claim", "--person", person, "--domain", "domain.token", *keys, "--out", f"{person}.claim")
            found += ["--operator", f"{person}.claim:officer,operator"]
        self.bare("domain", "found", "--region", self.name, *found, "--out", "found.proposal")
        self.sign("found.proposal", "--so-pin", "env:SO_PIN")

    def close(self):
        """Ends what there is of it."""

    def sign(self, paper, *login):
        for person in self.people:
            self.bare("proposal", "sign", paper, "--keys", f"{person}.pem", "--passphrase", "env:PASS", "--yes")
        return self.bare("proposal", "execute", paper, "--yes", *login)

    def does(self, *command):
        """The operators propose, sign and execute."""
        paper = f"paper-{time.monotonic_ns()}"
        said = self.bare("proposal", "new", *command, "--out", paper)
        self.sign(paper, "--pin", "env:USER_PIN")
        return said

    def bare(self, *args, **kwargs):
        return run(CONCLAVE, *args, cwd=self.place, env=self.env, **kwargs)

    def __call__(self, *args, pin=True, ahead=None, **kwargs):
        login = ["--pin", "env:USER_PIN"] if pin and "--pin" not in args else []
        earlier = ["faketime", "-f", ahead] if ahead else []
        return run(*earlier, CONCLAVE, *args, *login, cwd=self.place, env=self.env, **kwargs)

    def json(self, *args, **kwargs):
        return json.loads(self(*args, "--json", **kwargs))

    def fails(self, *args):
        """Exit status and what was said to standard error."""
        done = subprocess.run([CONCLAVE, *map(str, args), "--pin", "env:USER_PIN"], capture_output=True, cwd=self.place,
                              timeout=120, env={**os.environ, **self.env}, check=False)
        assert done.returncode != 0, done.stdout
        return done.returncode, done.stderr.decode()

    def begin(self, *args):
        """A command that goes on while others run."""
        return Running([CONCLAVE, *args, "--pin", "env:USER_PIN"], self.place, {**os.environ, **self.env})

    def serve(self, *carrier):
        return self.begin("region", "serve", *carrier)

    def encrypt(self, key, text):
        done = subprocess.run([CONCLAVE, "key", "encrypt", key, "--pin", "env:USER_PIN"], input=text, capture_output=True,
                              cwd=self.place, env={**os.environ, **self.env}, check=True)
        return done.stdout

    def decrypt(self, blob):
        done = subprocess.run([CONCLAVE, "key", "decrypt", "--pin", "env:USER_PIN"], input=blob, capture_output=True,
                              cwd=self.place, env={**os.environ, **self.env}, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def version(self, key):
        return self.json("key", "describe", key)["KeyVersion"]


class FleetRegion(Region):
    """The same with a fleet, whose operators have their keys in files too."""

    def __init__(self, name, place, **more):
        super().__init__(name, place)
        self.fleet = Fleet(place / "fleet", label=name, region=name, so_pin=SO_PIN, pin=PIN, **more)
        self.env["CONCLAVE_CONF"] = str(place / "conclave.toml")
        self.configure()
        for party in self.fleet.people:
            secret = BestAvailableEncryption(PASSPHRASE.encode())
            keys = [key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret) for key in (party.signing, party.agreement)]
            with open(place / f"{party.name.lower()}.pem", "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                file.write(b"".join(keys))

    def configure(self, *hsms):
        """The host's file, with these addresses or all."""
        (self.place / "conclave.toml").write_text("embedded = false\n" + self.fleet.entry(hsms or None))

    def close(self):
        self.fleet.close()


class Running:
    """A process whose lines are read as they come."""

    def __init__(self, command, place, env):
        self.read = []
        self.process = subprocess.Popen([str(word) for word in command], cwd=place, env=env, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.reader = threading.Thread(target=self.follow, daemon=True)
        self.reader.start()

    def follow(self):
        for line in self.process.stdout:
            self.read.append(line.rstrip("\n"))

    def waits_for(self, pattern):
        """The first line that matches."""
        def found():
            return next((line for line in list(self.read) if re.search(pattern, line)), None)
        until(found, lambda: f"no line {pattern!r} in {self.read}")
        return found()

    def ends(self, timeout=PATIENCE):
        """The exit status."""
        status = self.process.wait(timeout)
        self.reader.join()
        return status

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.ends()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.reader.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.kill()


class Proxy:
    """conclave-proxy; killed and started again it has the same address."""

    def __init__(self, data):
        self.data, self.listen = data, "127.0.0.1:0"
        self.start()

    def start(self):
        self.running = Running([PROXY, "--listen", self.listen, "--data", self.data], self.data.parent, os.environ)
        self.listen = self.running.waits_for("listening on").split()[-1]

    def kill(self):
        self.running.kill()

    @property
    def url(self):
        return f"http://{self.listen}"

    @property
    def carrier(self):
        return ["--proxy", self.url]

    def post(self, to, sender, message):
        request = urllib.request.Request(f"{self.url}/v1/messages/{to}", message, {"X-Conclave-From": sender})
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.status == 201

    def is_empty(self, region):
        """Whether nothing waits for a Region, by its counts."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=20) as answer:
            text = answer.read().decode()
        return not re.search(rf'^\w+\{{[^}}]*region="{region}"[^}}]*\}} [1-9]', text, re.M)


def until(condition, said=lambda: "it does not happen", patience=PATIENCE):
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, said()
        time.sleep(0.1)


@contextlib.contextmanager
def serving(*regions, by):
    """`region serve` in each, which ends cleanly."""
    running = [region.serve(*by) for region in regions]
    try:
        for each in running:
            each.waits_for(" serving ")
        yield running
        for each in running:
            assert each.stop() == 0, each.read
    finally:
        for each in running:
            each.kill()
