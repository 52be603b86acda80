"""Two Regions, a process each: how fast keys go from one to the other, and what that costs in memory."""

import json
import multiprocessing
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from ctypes import c_ulong

ROOT = pathlib.Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "python-tests"))

FROM, TO = "bench-a", "bench-b"
SUITE_2 = 2
# Bytes that any message fits into.
ROOM, ROOM_PER_KEY = 16 << 10, 2 << 10


def side(region, home, pipes):
    """A Region: a process that does what comes through its pipes, each in a thread of its own."""
    import conftest  # noqa: F401  it gives every test a home of its own, of which the Region's takes the place

    work = pathlib.Path(home)
    (work / "data").mkdir(mode=0o700, exist_ok=True)
    (work / "conclave.toml").write_text('audit = "on"\n')
    os.environ.update(CONCLAVE_HOME=f"{home}/data", CONCLAVE_CONF=f"{home}/conclave.toml")
    threads = [threading.Thread(target=Side(region).serve, args=[pipe]) for pipe in pipes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Side:
    """What a Region does on demand."""

    lock = threading.Lock()
    module = ceremony = None

    def __init__(self, region):
        self.region = region

    def serve(self, pipe):
        self.start()
        self.session = self.module.session(self.ceremony.slot)
        while True:
            name, *arguments = pipe.recv()
            if name == "end":
                return
            try:
                pipe.send(getattr(self, name)(*arguments))
            except Exception as error:  # told to the other side, which ends
                pipe.send(error if type(error).__module__ == "builtins" else RuntimeError(str(error)))

    def start(self):
        from conftest import MODULE, PIN
        from cryptoki import Module, ck
        from ceremony import Ceremony

        with Side.lock:
            if Side.module:
                return
            Side.module = Module(MODULE)
            self.module.initialize()
            Side.ceremony = Ceremony(self.module, self.region)
            people = self.ceremony.people
            self.ceremony.domain.execute(
                self.ceremony.command("found domain", *self.ceremony.founding(region=self.region), by=people))
            self.ceremony.session.logout()
            self.ceremony.login(PIN, ck.CKU_USER)

    def identity(self):
        state = self.ceremony.state
        return [self.region, state.domain, list(state.replication_keys)]

    def execute(self, name, *arguments):
        self.ceremony.execute(name, *arguments, by=self.ceremony.people)

    def trust(self, identity):
        self.execute("trust Region", identity)

    def allow_suite(self):
        self.execute("allow suite", SUITE_2, True)

    def _request(self, function, members, out=True):
        text = json.dumps(members).encode()
        flags = () if out else (c_ulong(0),)
        ask = self.session._out if out else self.session.call
        return ask(function, *flags, text, c_ulong(len(text)))

    def make(self, count, region):
        """New keys that may have a replica in that Region."""
        from kms import Kms

        kms = Kms(self.session)
        keys = [kms.create(MultiRegion=True) for _ in range(count)]
        for key in keys:
            self._request("KMS_ReplicateKey", {"KeyId": key, "ReplicaRegion": region}, out=False)
        return keys

    def offer(self, region, keys):
        return self._request("KMS_OfferReplicas", {"Region": region, "KeyIds": keys})

    def ship(self, offer, keys):
        return self.session._out("KMS_ShipReplicas", offer, c_ulong(len(offer)), room=ROOM + keys * ROOM_PER_KEY)

    def receive(self, message, keys):
        room = ROOM + keys * ROOM_PER_KEY
        return self.session._out("KMS_ReceiveReplication", message, c_ulong(len(message)), room=room)

    def round_trip(self, key, blob=None):
        from kms import Kms

        kms = Kms(self.session)
        return kms.encrypt(key, b"benchmark") if blob is None else kms.decrypt(blob)

    def memory(self):
        """Peak and present resident memory, MiB."""
        status = pathlib.Path("/proc/self/status").read_text()
        numbers = {line.split(":")[0]: line.split() for line in status.splitlines() if line.startswith("Vm")}
        return {name: round(int(numbers[name][1]) / 1024, 1) for name in ("VmHWM", "VmRSS")}


class Pipe:
    """One way to a Region."""

    def __init__(self, pipe):
        self.pipe = pipe

    def __call__(self, *request):
        self.pipe.send(request)
        answer = self.pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


def exchange(source, target, keys):
    """All of it, to the activation. Every step is committed before its message goes."""
    shipment = source("ship", target("offer", FROM, keys), len(keys))
    receipt = target("receive", shipment, len(keys))
    activate = source("receive", receipt, len(keys))
    source("receive", target("receive", activate, len(keys)), len(keys))


def measure(ways, keys, size, name):
    """`keys` in exchanges of `size`, as many at once as there are ways."""
    parts = [keys[at : at + size] for at in range(0, len(keys), size)]
    failed = []

    def work(way):
        try:
            while parts:
                exchange(*way, parts.pop())
        except Exception as error:  # counted and told; the line says so
            failed.append(str(error))

    begin = time.perf_counter()
    threads = [threading.Thread(target=work, args=[way]) for way in ways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - begin
    say(name=name, keys=len(keys), keys_per_exchange=size, exchanges_at_once=len(ways), rate=round(len(keys) / took, 1),
        seconds=round(took, 2), failed=len(failed), **({"error": failed[0]} if failed else {}))
    return not failed


def say(**line):
    print(json.dumps(line), flush=True)


def through_the_proxy(homes, source, keys):
    """The command line and the proxy."""
    from conftest import PIN

    programs = ROOT / "target/release"
    data = tempfile.mkdtemp(dir=homes[0])
    proxy = subprocess.Popen([programs / "conclave-proxy", "--listen", "127.0.0.1:0", "--data", data],
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    serve = None
    try:
        address = proxy.stdout.readline().split()[-1].decode()

        def environment(home):
            return {**os.environ, "BENCH_PIN": PIN, "CONCLAVE_HOME": f"{home}/data", "CONCLAVE_CONF": f"{home}/conclave.toml"}

        def command(region, *words):
            return [programs / "conclave", *words, "--token", region, "--pin", "env:BENCH_PIN", "--proxy",
                    f"http://{address}"]

        serve = subprocess.Popen(command(TO, "region", "serve"), env=environment(homes[1]),
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ids = pathlib.Path(homes[0], "keys")
        ids.write_text("\n".join(keys))
        begin = time.perf_counter()
        done = subprocess.run(command(FROM, "replicate", "--keys-from", ids, "--to", TO),
                              env=environment(homes[0]), capture_output=True, text=True)
        took = time.perf_counter() - begin
        if serve.poll() is not None:
            raise SystemExit("`conclave region serve` ended")
        peak = pathlib.Path(f"/proc/{serve.pid}/status").read_text()
        peak = next(int(line.split()[1]) / 1024 for line in peak.splitlines() if line.startswith("VmHWM"))
        say(name="through the proxy", keys=len(keys), seconds=round(took, 2), rate=round(len(keys) / took, 1),
            serving_side_peak_mib=round(peak, 1), failed=done.returncode, **({"error": done.stderr} if done.returncode else {}))
        return not done.returncode
    finally:
        for process in filter(None, (serve, proxy)):
            process.send_signal(signal.SIGTERM)
            process.wait()


def main():
    smoke = "--smoke" in sys.argv
    plan = [(1, 20), (100, 200)] if smoke else [(1, 1000), (100, 10_000), (10_000, 20_000)]
    context = multiprocessing.get_context("spawn")
    homes = [tempfile.mkdtemp(prefix=f"conclave-{region}-") for region in (FROM, TO)]
    processes, ways = [], []
    good = True
    try:
        for region, home in zip((FROM, TO), homes):
            ours, theirs = zip(*(context.Pipe() for _ in range(2)))
            process = context.Process(target=side, args=(region, home, theirs))
            process.start()
            processes.append(process)
            ways.append([Pipe(pipe) for pipe in ours])
        (a, b), both = (ways[0][0], ways[1][0]), list(zip(*ways))
        a("trust", b("identity"))
        b("trust", a("identity"))
        for name in ("suite 1", "suite 2"):
            if name == "suite 2":
                a("allow_suite"), b("allow_suite")
            for size, count in plan:
                for at_once in (1, 2):
                    good &= measure(both[:at_once], a("make", count, TO), size, name)
            say(name=f"memory after {name}", sending=a("memory"), receiving=b("memory"))
        key = a("make", 1, TO)
        exchange(a, b, key)
        if b("round_trip", key[0], a("round_trip", key[0])) != b"benchmark":
            raise SystemExit("what one Region encrypts the other does not decrypt")
        keys = a("make", 50 if smoke else 10_000, TO)
        for way in (pipe for side_of in ways for pipe in side_of):
            way.pipe.send(["end"])
        for process in processes:
            process.join()
        good &= through_the_proxy(homes, a, keys)
    finally:
        for process in processes:
            process.kill()
        for home in homes:
            shutil.rmtree(home, ignore_errors=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
