"""The modules that are compared: how each is set up, and how a token of a given size is made."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

PIN = "28461537"
SO_PIN = "73516284"
LABEL = "conclave-bench"


class Unavailable(Exception):
    """The module cannot take part; the message says why."""


def first_existing(*paths):
    for path in paths:
        if os.path.exists(path):
            return path
    raise Unavailable(f"none of {', '.join(paths)} is there")


class Token:
    """A token of one size: the command line and environment that reach it."""

    def __init__(self, program, arguments, environment):
        self.command = [program, "-p", PIN, *arguments]
        self.environment = {**os.environ, **environment}

    def run(self, *words, timeout=300, environment=None):
        """Runs a command of the C program; answers its JSON, with "rv" if it failed."""
        try:
            done = subprocess.run(
                [*self.command, *map(str, words)],
                env={**self.environment, **(environment or {})},
                capture_output=True,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            return {"rv": "timed out"}
        lines = done.stdout.strip().splitlines()
        if not lines:
            return {"rv": f"ended with status {done.returncode} {done.stderr.strip()[:200]}"}
        return json.loads(lines[-1])

    def must(self, *words, **options):
        answer = self.run(*words, **options)
        if "rv" in answer:
            raise Unavailable(f"{words[0]}: {answer['rv']} {answer.get('at', '')}")
        return answer


class Module:
    """One PKCS#11 module. `durable`: a created object survives a power cut."""

    name = ""
    title = ""
    durable = False
    fill_threads = 1
    fill_environment = {}
    largest = 10**9

    def __init__(self, program, directory, budget):
        self.program = program
        self.directory = pathlib.Path(directory) / self.name
        self.budget = budget
        self.tokens = {}
        self.note = None

    def start(self):
        """Whatever must be there before the first token; raises Unavailable."""

    def stop(self):
        """Undoes `start`."""

    def make(self, directory):
        """An empty, initialised token in that directory."""
        raise NotImplementedError

    def at(self, directory):
        """The token in that directory."""
        raise NotImplementedError

    def token(self, size):
        """The token with so many keys, or None if it cannot be filled in the time allowed."""
        if size not in self.tokens:
            self.tokens[size] = self.filled(size) if size <= self.largest else None
        return self.tokens[size]

    def filled(self, size):
        """Fills in memory, where a commit costs nothing, then moves the files to the disk."""
        fast = pathlib.Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else self.directory.parent
        building = fast / f"conclave-bench-{os.getpid()}-{self.name}"
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        try:
            token = self.make(building)
            begun = time.monotonic()
            answer = token.must(
                "fill", 0, size, self.fill_threads, self.budget,
                timeout=self.budget + 120, environment=self.fill_environment,
            )
            if not answer["complete"]:
                self.note = f"{answer['made']} keys in {time.monotonic() - begun:.0f} s of filling"
                return None
            token.must("signer")
            final = self.directory / str(size)
            shutil.rmtree(final, ignore_errors=True)
            final.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(building, final)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        os.sync()
        return self.at(final)


class Conclave(Module):
    name = "conclave"
    title = "Conclave"
    durable = True
    fill_threads = 32

    def __init__(self, program, directory, budget, library):
        super().__init__(program, directory, budget)
        self.library = library

    def start(self):
        first_existing(self.library)

    def at(self, directory):
        token = Token(self.program, ["-m", self.library, "-l", LABEL], {"CONCLAVE_HOME": str(directory)})
        token.environment.pop("CONCLAVE_CONF", None)
        return token

    def make(self, directory):
        directory.chmod(0o700)
        token = self.at(directory)
        token.must("init-token")
        return token


class SoftHsm(Module):
    name = "softhsm2"
    title = "SoftHSM2"
    fill_threads = 2

    def start(self):
        self.library = first_existing(
            "/usr/lib/softhsm/libsofthsm2.so",
            "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
            "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
            "/usr/lib64/pkcs11/libsofthsm2.so",
        )

    def at(self, directory):
        configuration = directory / "softhsm2.conf"
        configuration.write_text(
            f"directories.tokendir = {directory}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        arguments = ["-m", self.library, "-l", LABEL]
        return Token(self.program, arguments, {"SOFTHSM2_CONF": str(configuration)})

    def make(self, directory):
        (directory / "tokens").mkdir()
        token = self.at(directory)
        token.must("init-token")
        return token


class Nss(Module):
    name = "nss"
    title = "NSS softoken"
    durable = True
    # Each stored value is encrypted under a key of its own, which costs its iterations of PBKDF2 at
    # creation. The filling keys get one iteration; the signing key and whatever a benchmark makes
    # get what NSS gives them.
    fill_environment = {"NSS_MAX_MP_PBE_ITERATION_COUNT": "1"}

    def start(self):
        self.library = first_existing(
            "/usr/lib/x86_64-linux-gnu/libsoftokn3.so",
            "/usr/lib/x86_64-linux-gnu/nss/libsoftokn3.so",
            "/usr/lib/aarch64-linux-gnu/libsoftokn3.so",
            "/usr/lib64/libsoftokn3.so",
        )
        if not shutil.which("certutil"):
            raise Unavailable("certutil (libnss3-tools) is not there")

    def at(self, directory):
        parameters = f"configdir='sql:{directory}' certPrefix='' keyPrefix='' secmod='secmod.db' flags="
        # Slot 2 is the one with the database.
        return Token(self.program, ["-m", self.library, "-s", "2", "-i", parameters], {})

    def make(self, directory):
        password = directory / "password"
        password.write_text(PIN + "\n")
        subprocess.run(
            ["certutil", "-N", "-d", f"sql:{directory}", "-f", str(password)], check=True, capture_output=True
        )
        return self.at(directory)


class OpenCryptoki(Module):
    """Has one data directory for the whole machine, so it is used only while nobody else does."""

    name = "opencryptoki"
    title = "opencryptoki"
    largest = 2000  # it has room for 2 048 objects

    def start(self):
        self.library = first_existing(
            "/usr/lib/x86_64-linux-gnu/opencryptoki/libopencryptoki.so.0",
            "/usr/lib/aarch64-linux-gnu/opencryptoki/libopencryptoki.so.0",
            "/usr/lib64/opencryptoki/libopencryptoki.so.0",
        )
        if os.geteuid() != 0:
            raise Unavailable("needs root, for its daemon and its one data directory")
        self.daemon = None
        if self.running():
            raise Unavailable("its daemon runs already: the token is left to whoever uses it")
        self.begin()
        if self.used():
            # Left by a benchmark that was killed.
            self.stop()
            self.begin()
        self.size = 0
        Token(self.program, ["-m", self.library, "-s", "3", "-l", LABEL, "-o", "87654321"], {}).must("init-token")

    @staticmethod
    def running():
        found = subprocess.run(["pgrep", "-x", "pkcsslotd"], capture_output=True, text=True).stdout.split()
        return int(found[0]) if found else None

    def begin(self):
        daemon = shutil.which("pkcsslotd", path="/usr/sbin:/sbin:/usr/bin")
        if not daemon or subprocess.run([daemon], capture_output=True, timeout=30).returncode != 0:
            raise Unavailable("its daemon pkcsslotd does not start")
        time.sleep(1)
        self.daemon = self.running()

    def used(self):
        """Whether a benchmark's token is there; raises Unavailable for anybody else's."""
        slots = subprocess.run(["pkcsconf", "-t"], capture_output=True, text=True, timeout=30).stdout
        part = slots.partition("Token #3 Info:")[2].partition("Token #")[0]
        if "SoftTok" not in part:
            raise Unavailable("its slot 3 is not the soft token")
        if "|TOKEN_INITIALIZED" in part and LABEL not in part:
            raise Unavailable("its soft token is in use by someone else")
        return LABEL in part

    def stop(self):
        """Ends the daemon that `begin` started, and clears the benchmark's token away."""
        if not getattr(self, "daemon", None):
            return
        try:
            ours = self.used()
        except Unavailable:
            ours = False
        os.kill(self.daemon, signal.SIGTERM)
        for _ in range(50):
            if not self.running():
                break
            time.sleep(0.1)
        self.daemon = None
        if ours:
            data = pathlib.Path("/var/lib/opencryptoki/swtok")
            for path in [*data.glob("NVTOK.DAT"), *data.glob("MK_*"), *data.glob("TOK_OBJ/*")]:
                path.unlink()
            pathlib.Path("/dev/shm/var.lib.opencryptoki.swtok").unlink(missing_ok=True)

    def filled(self, size):
        token = Token(self.program, ["-m", self.library, "-s", "3", "-l", LABEL], {})
        if size < self.size:
            return None
        token.must("fill", self.size, size, 1, self.budget)
        if self.size == 0:
            token.must("signer")
        self.size = size
        return token
