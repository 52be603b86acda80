"""Fleets for tests: `conclaved` processes, a domain founded by a quorum, a host, users, and the configuration
by which the module uses them.

    fleet.py serve SOCKET [postgres]      founds fleets for programs in other languages (scripts/fleet.sh)
"""

import atexit
import json
import os
import pathlib
import secrets
import shutil
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
import time

import cbor2
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from peer.command import HOUR, Command
from peer.identity import HOST, Party
from peer.keys import sha384
from peer.token import Token

ROOT = pathlib.Path(__file__).parent.parent
SO_PIN = "12345678"
PIN = "9876-user"
FIRST_SLOT = 1 << 30
OPERATORS = 64
DAY = 24 * HOUR
CODE = "an enrolment code"


def program(name):
    """A program of the build that the module is of."""
    module = pathlib.Path(os.environ.get("CONCLAVE_MODULE", ROOT / "target/release/libconclave.so")).resolve()
    return module.parent / name


class Hsm:
    """A `conclaved`. `address` is where hosts connect, `admin` its operators' socket. Its clock may be `ahead`, in
    seconds."""

    def __init__(self, directory, name, fingerprint=None, options=(), env=None, ahead=0, **more):
        options = [*options, "--hardening", "off", "--seccomp", "off"] if ahead else options
        self.directory, self.name, self.fingerprint = pathlib.Path(directory), name, fingerprint
        self.env = {**os.environ, **(env or {}), **(_at(ahead) if ahead else {})}
        self.options = [*options, *[word for key, value in more.items() for word in _option(key, value)]]
        self.log = self.directory / f"{name}.log"
        self.admin = self.directory / f"{name}.admin"
        self.address = f"unix:{self.directory}/{name}.sock"
        self.process = None

    def start(self):
        """Starts it: a new HSM, with new keys."""
        for path in self.admin, self.directory / f"{self.name}.sock":
            path.unlink(missing_ok=True)
        fingerprint = ["--domain-fingerprint", self.fingerprint] if self.fingerprint else []
        command = [program("conclaved"), "--name", self.name, "--listen", self.address, "--admin", self.admin,
                   "--metrics", "127.0.0.1:0", "--json", *fingerprint, *self.options]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=log,
                                            stdin=subprocess.DEVNULL, start_new_session=True, env=self.env)
        _running.add(self.process)
        line = self.process.stdout.readline()
        assert line, f"conclaved did not start: {self.log.read_text()}"
        self.said = json.loads(line)
        self.id, self.metrics = bytes.fromhex(self.said["id"]), self.said.get("metrics")
        return self

    def kill(self, how=signal.SIGKILL):
        self.process.send_signal(how)
        self.process.wait(30)
        self.process.stdout.close()
        _running.discard(self.process)

    @property
    def alive(self):
        return self.process is not None and self.process.poll() is None

    def ask(self, message, admin=False):
        """A clear message's answer, decoded."""
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(30)
            stream.connect(str(self.admin) if admin else self.address.removeprefix("unix:"))
            data = cbor2.dumps(message, canonical=True)
            stream.sendall(struct.pack(">I", len(data)) + data)
            try:
                (length,) = struct.unpack(">I", _exactly(stream, 4))
                return cbor2.loads(_exactly(stream, length))
            except AssertionError as closed:
                log = "".join(self.log.read_text().splitlines(True)[-20:])
                raise AssertionError(f"{closed}; it {'runs' if self.alive else 'has ended'}, and its log says:\n{log}") from None

    def status(self):
        kind, *status = self.ask([0])
        assert kind == 0, status
        return dict(zip(("hsm", "kid", "domain", "version", "hash", "member"), status))

    def claim(self):
        """By which it is admitted; it must know the domain."""
        with tempfile.TemporaryDirectory() as directory:
            out = pathlib.Path(directory, "claim")
            conclave("hsm", "claim", "--admin", self.admin, "--out", out)
            return out.read_bytes()


_running = set()


@atexit.register
def _kill_all():
    for process in _running:
        process.kill()


def _at(ahead):
    """The environment of a process whose clock is so many seconds ahead. The program `faketime` itself would stay as
    its parent, and what it shares with others would stay when it is killed."""
    command = ["faketime", "--exclude-monotonic", "-f", f"{ahead:+d}s", "env"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    made = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    return {name: made[name] for name in ("LD_PRELOAD", "FAKETIME", "FAKETIME_DONT_FAKE_MONOTONIC")}


def _option(key, value):
    name = "--" + key.replace("_", "-")
    return [name] if value is True else [name, str(value)]


def _exactly(stream, count):
    data = b""
    while len(data) < count:
        part = stream.recv(count - len(data))
        assert part, "the HSM closed the connection"
        data += part
    return data


def conclave(*arguments, env=None):
    """The command line's output."""
    done = subprocess.run([str(program("conclave")), *map(str, arguments)], capture_output=True, text=True, timeout=60,
                          env={**os.environ, **(env or {})}, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"conclave {arguments}: {done.stderr}"
    return done.stdout


class Worker:
    """A process for what operators do: the module of this process keeps its own configuration."""

    def __init__(self):
        module = os.environ.get("CONCLAVE_MODULE", str(ROOT / "target/release/libconclave.so"))
        self.process = subprocess.Popen([sys.executable, "fleet_worker.py", str(pathlib.Path(module).resolve())],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        cwd=pathlib.Path(__file__).parent, start_new_session=True)
        _running.add(self.process)
        self.lock = threading.Lock()

    def run(self, conf, slot, steps):
        with self.lock:
            self.process.stdin.write(json.dumps({"conf": str(conf), "slot": slot, "steps": steps}) + "\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
        if isinstance(answer, dict):
            raise AssertionError(answer["error"])
        return answer


_worker = None


def worker():
    global _worker
    if _worker is None or _worker.process.poll() is not None:
        _worker = Worker()
    return _worker


class Fleet:
    """A fleet in `directory`, which must not exist: founded by three people, each officer and operator, with one host
    and the PINs of the SO and the user, unless it is to be `founded` by others. `options` and `more` are conclaved's, as
    is `env` in `more`."""

    def __init__(self, directory, hsms=1, database=None, label="fleet", region="eu-north", so_pin=SO_PIN, pin=PIN,
                 options=(), people=None, rules=(), founded=True, **more):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(mode=0o700, parents=True)
        self.label, self.region, self.so_pin, self.pin = label, region, so_pin, pin
        self.database = database or f"sqlite:{self.directory}/store"
        self.options, self.more = options, more
        self.people = people or [Party(name, ["officer", "operator"]) for name in ("Anna", "Ben", "Cleo")]
        self.hsms = [Hsm(self.directory, "a", None, self.options, **self.more).start()]
        self.host_key = self.directory / "host.pem"
        conclave("fleet", "create", "--admin", self.hsms[0].admin, "--database", self.database, "--label", self.label)
        if not founded:
            return
        self._found(rules)
        for _ in range(hsms - 1):
            self.start_hsm()

    @classmethod
    def of(cls, directory, people, trust, database):
        """A fleet whose domain is there already, without HSMs."""
        fleet = cls.__new__(cls)
        fleet.directory, fleet.people, fleet.trust, fleet.database = pathlib.Path(directory), people, trust, database
        fleet.region, fleet.host_key, fleet.options, fleet.more, fleet.hsms = "eu-north", fleet.directory / "host.pem", (), {}, []
        return fleet

    def _found(self, rules):
        state = self.state()
        members = [list(member) for member in state.members]
        people = [person.founder(state.domain) for person in self.people]
        (token,) = self._operate([self._signed(state, "found domain", self.region, members, people, list(rules),
                                               by=self.people)], "token")
        founded = Token(bytes.fromhex(token)).state
        self.trust = Token(bytes.fromhex(token)).hash.hex()
        steps = [self._signed(founded, "admit host", self.host_claim("host", founded.domain, self.host_key)),
                 *[self._signed(founded, "create user", role, None, self._enrolment(founded)) for role in (0, 1)]]
        self._operate([*steps, ["set_pin", "SO", self.so_pin, CODE], ["set_pin", "user", self.pin, CODE]])
        (self.directory / "trust").write_text(self.trust + "\n")

    # Operators

    def _signed(self, state, name, *arguments, by=None):
        command = Command.of(state, name, *arguments)
        return ["execute", command.sign(*[person.signing for person in by or self.people]).encode().hex()]

    def _operate(self, steps, *more, without=None):
        """Steps of a worker, and more whose results count, by HSMs but for the one of this id."""
        conf = self.directory / "operators.toml"
        members = [f"admin:{hsm.admin}" for hsm in self.hsms if hsm.alive and hsm.id != without and hsm.status()["member"]]
        conf.write_text("embedded = false\n" + self.entry(members, None))
        return worker().run(conf, FIRST_SLOT, [*steps, *[[name] for name in more]])[len(steps):]

    def execute(self, name, *arguments, by=None):
        """A command of the quorum."""
        # No HSM carries out its own expulsion.
        without = arguments[0] if name == "expel HSM" else None
        self._operate([self._signed(self.state(), name, *arguments, by=by)], without=without)

    def token(self):
        return bytes.fromhex(self._operate([], "token")[0])

    def state(self):
        return Token(self.token()).state

    def history(self):
        """The origin, the newest token, and the entries between."""
        origin, entries, newest = cbor2.loads(bytes.fromhex(self._operate([], "history")[0]))
        return origin, newest, entries

    @staticmethod
    def _enrolment(state):
        code = sha384(cbor2.dumps(["enrolment", state.domain, CODE.encode()], canonical=True))
        return [code, int(time.time()) + DAY]

    def create_user(self, name, pin):
        """A named user with this PIN."""
        state = self.state()
        self._operate([self._signed(state, "create user", 2, name, self._enrolment(state)), ["set_pin", name, pin, CODE]])

    def reset_pin(self, role):
        """The holder sets a new PIN with the code."""
        state = self.state()
        self._operate([self._signed(state, "reset PIN", {"SO": 0, "user": 1}[role], None, self._enrolment(state))])

    def trust_key(self, object):
        """The object's id in hexadecimal: the key is TRUSTED."""
        self.execute("trust key", bytes.fromhex(object), True)

    def remove_user(self, name):
        self.execute("remove user", 2, name)

    # HSMs

    def start_hsm(self, *options, **more):
        """One more, which is a member when this returns. `more` as for Hsm."""
        hsm = self._start(*options, **more)
        self.admit(hsm)
        self.hsms.append(hsm)
        return hsm

    def _start(self, *options, **more):
        name = chr(ord("a") + len(self.hsms))
        return Hsm(self.directory, name, self.trust, (*self.options, *options), **{**self.more, **more}).start()

    def start_claimant(self, trust):
        """One more for those who found the domain themselves and admit it by its claim, in hexadecimal."""
        self.trust = trust
        hsm = self._start()
        self.bring(hsm)
        self.hsms.append(hsm)
        return hsm.claim().hex()

    def admit(self, hsm):
        """Brings the domain to a new HSM, admits it, and lets all know."""
        self.bring(hsm)
        self.execute("admit HSM", hsm.claim())
        for each in [*self.hsms, hsm]:
            if each.alive:
                self.bring(each)
        assert hsm.status()["member"]

    def bring_all(self):
        history = self.history()
        for hsm in self.hsms:
            self.bring(hsm, history)
        assert all(hsm.status()["member"] for hsm in self.hsms)

    def readmit(self, hsm):
        """An HSM that was started again is another: the old one is expelled, it is admitted."""
        old = [member.id for member in self.state().members]
        known = [each.id for each in self.hsms if each.alive and each is not hsm]
        for gone in old:
            if gone not in known:
                self.execute("expel HSM", gone, None)
        hsm.fingerprint = self.trust
        self.admit(hsm)

    def restart(self, hsm):
        hsm.fingerprint = self.trust
        hsm.start()
        self.readmit(hsm)

    def bring(self, hsm, history=None):
        origin, newest, entries = history or self.history()
        begin, held = Token(origin).state.version, hsm.status()["version"]
        after = max(begin, held)
        answer = hsm.ask([1, origin, newest, after, entries[after - begin:]])
        assert answer[0] == 0, answer

    # Hosts

    @staticmethod
    def host_claim(name, domain, path):
        """The claim of a new host, whose key is put there."""
        host = Party(name, party=HOST)
        pem = host.signing.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with open(path, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(pem)
        return host.claim(domain)

    def admit_host(self, name):
        """The new host's key: a PEM file."""
        path = self.directory / f"{name}.pem"
        self.execute("admit host", self.host_claim(name, self.state().domain, path))
        return path

    def claim_first_host(self, domain):
        """Its claim, in hexadecimal, for those who found the domain themselves."""
        return self.host_claim("host", bytes.fromhex(domain), self.host_key).hex()

    def entry(self, hsms=None, host_key=..., **more):
        """A `[[fleet]]` of conclave.toml."""
        hsms = [hsm.address for hsm in self.hsms] if hsms is None else hsms
        keys = {"region": self.region, "hsm": [str(hsm) for hsm in hsms], "database": self.database, **more}
        if host_key is not None:
            keys = {"host_key": str(self.host_key if host_key is ... else host_key), "trust": self.trust, **keys}
        return "[[fleet]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())

    def stop(self):
        for hsm in self.hsms:
            if hsm.alive:
                hsm.kill()

    def close(self):
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Postgres:
    """A PostgreSQL of the tests' own, which ends with this process."""

    def __init__(self):
        # Its server runs as another user, who must be able to go there.
        self.directory = f"{tempfile.gettempdir()}/conclave-postgres-{os.getpid()}"
        self.url = self._run("start", str(os.getpid()))

    def _run(self, command, *more):
        done = subprocess.run([str(ROOT / "scripts/postgres.sh"), command, self.directory, *more], capture_output=True,
                              text=True, timeout=120, check=False, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def address(self, name):
        """Of a database, which may not be there yet."""
        return self.url.replace("/postgres?", f"/{name}?")

    def stop(self):
        self._run("stop")

    def make(self, name):
        """Makes a database; its address."""
        return self._run("database", name)


class Pool:
    """Slots of a configuration that is there before their fleets are: an application that has begun gets tokens as it
    makes them, where an embedded one calls C_InitToken. With `operators`, there is another slot for each, OPERATORS
    above its own, on its first HSM's admin socket. Each fleet has so many `hsms`."""

    def __init__(self, directory, count=16, postgres=None, operators=False, hsms=1):
        self.directory, self.count, self.postgres, self.made = pathlib.Path(directory), count, postgres, []
        self.operators, self.hsms, self.prefix = operators, hsms, f"fleet{secrets.token_hex(4)}_"
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def place(self, number):
        return self.directory / str(number)

    def database(self, number):
        if self.postgres is None:
            return f"sqlite:{self.place(number)}/store"
        return self.postgres.address(f"{self.prefix}{number}")

    def entries(self):
        """The `[[fleet]]` of all."""
        text = ""
        for number in range(self.count):
            at = self.place(number)
            hsms = [f"unix:{at}/{chr(ord('a') + hsm)}.sock" for hsm in range(self.hsms)]
            text += (f'[[fleet]]\nregion = "eu-north"\nhsm = {json.dumps(hsms)}\nhost_key = "{at}/host.pem"\n'
                     f'trust = "file:{at}/trust"\ndatabase = "{self.database(number)}"\n')
        for number in range(self.count if self.operators else 0):
            text += (f'[[fleet]]\nregion = "eu-north"\nhsm = ["admin:{self.place(number)}/a.admin"]\n'
                     f'slot = {OPERATORS + number}\ndatabase = "{self.database(number)}"\n')
        return text

    def make(self, label, so_pin=SO_PIN, pin=PIN, make=Fleet, **more):
        """Founds the next; its slot."""
        number = len(self.made)
        assert number < self.count, "the pool of fleets is used up"
        self.made.append(None)
        if self.postgres:
            self.postgres.make(f"{self.prefix}{number}")
        self.made[number] = make(self.place(number), self.hsms, self.database(number), label, so_pin=so_pin, pin=pin, **more)
        return FIRST_SLOT + number

    def apart(self, directory, **more):
        """A fleet without a slot here."""
        database = self.postgres and self.postgres.make(f"apart{secrets.token_hex(4)}")
        return Fleet(directory, **{"database": database, **more})

    def fleet(self, slot):
        return self.made[slot - FIRST_SLOT]

    def rest(self, first, but=()):
        """Ends the HSMs of all fleets from this one on, but those with these labels; slots and stores stay."""
        for fleet in self.made[first:]:
            if fleet is not None and fleet.label not in but:
                fleet.stop()

    def close(self):
        for fleet in self.made:
            if fleet is not None:
                fleet.close()


def serve(path, postgres=None):
    """Founds fleets as lines of JSON ask, and answers each with "ok" and what came of it, or with why not:
    {pool: DIRECTORY, do: NAME, with: {...}} calls a method of the Pool there, {pool, slot, do, with} one of its fleet's;
    {pool, open: {...}} makes a Pool and answers its entries."""

    def answer(pool, do=None, slot=None, open=None, **arguments):
        if open is not None:
            pools[pool] = Pool(pool, postgres=postgres, **open)
            return pools[pool].entries()
        one = pools[pool] if slot is None else pools[pool].fleet(slot)
        return getattr(one, do)(**arguments.get("with", {}))

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            try:
                text = f"ok {answer(**json.loads(self.rfile.readline()))}"
            except Exception as error:  # noqa: BLE001  # the program that asked says it
                text = f"{type(error).__name__}: {error}"
            self.wfile.write(text.encode())

    pools = {}
    with socketserver.UnixStreamServer(path, Handler) as server:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1:2] != ["serve"] or sys.argv[3:] not in ([], ["postgres"]):
        sys.exit(__doc__)
    serve(sys.argv[2], Postgres() if sys.argv[3:] else None)
