"""A fleet over loopback, beside the embedded HSM in the same run: what a remote operation adds, operations per
second by threads and by HSMs; what handshakes, host processes and idle connections cost an HSM; and how fast one
starts."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "python-tests"), str(ROOT / "bench")]
MODULE = os.environ["CONCLAVE_MODULE"]
CLIENT = pathlib.Path(MODULE).parent / "examples/fleet_client"
SO_PIN, PIN = "12345678", "9876-user"

# Benchmarks of pkcs11_bench; of each, whether its rate by threads and HSMs is measured too.
LINES = [("aes-gcm-32", True), ("p256-sign", True), ("aes-gcm-4k", False)]


def tell(**line):
    print(json.dumps(line), flush=True)


class Contestant:
    """A process of the benchmark program over a token."""

    def __init__(self, program, home, label, config=None):
        from run import Server

        data = pathlib.Path(home, "data")
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        conf = pathlib.Path(home, "conclave.toml")
        conf.write_text(config or "")
        environment = dict(os.environ, CONCLAVE_HOME=str(data), CONCLAVE_CONF=str(conf))
        command = [program, "-m", MODULE, "-l", label, "-p", PIN]
        if not config:
            subprocess.run([*command, "-o", SO_PIN, "init-token"], env=environment, check=True, stdout=subprocess.DEVNULL)
        self.server = Server([*command, "serve"], environment)

    def measure(self, name, seconds, threads):
        answer = self.server.ask(name, seconds, threads, 1, timeout=60 + 10 * seconds)
        if "rate" not in answer:
            raise RuntimeError(f"{name}: {answer}")
        return answer

    def close(self):
        self.server.close()


def median(values):
    return sorted(values)[len(values) // 2]


def latency(embedded, remote, seconds, rounds):
    """In turn, so that both see the same machine."""
    for name, _ in LINES:
        answers = {"embedded": [], "fleet": []}
        for _ in range(rounds):
            answers["embedded"].append(embedded.measure(name, seconds, 1))
            answers["fleet"].append(remote.measure(name, seconds, 1))
        of = {who: {key: median([a[key] for a in all_]) for key in ("p50", "p99", "rate")} for who, all_ in answers.items()}
        tell(what="latency", line=name, unit="us", **of, added_p50=of["fleet"]["p50"] - of["embedded"]["p50"],
             added_p99=of["fleet"]["p99"] - of["embedded"]["p99"])


def throughput(contestant, hsms, seconds):
    for name, scales in LINES:
        if scales:
            for threads in (1, 2, 8):
                answer = contestant.measure(name, seconds, threads)
                tell(what="throughput", line=name, hsms=hsms, threads=threads, rate=answer["rate"], p50=answer.get("p50"),
                     p99=answer.get("p99"))


class Usage:
    """What a process has used: CPU time of each of its threads, and bytes of memory without what is mapped from files."""

    def __init__(self, pid):
        self.cpu = {}
        for stat in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                self.cpu[stat.parent.name] = int(stat.read_text().split()[0])
            except OSError:
                pass
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        self.bytes = int(status.partition("RssAnon:")[2].split()[0]) * 1024

    def since(self, before):
        """CPU seconds. A thread that has ended was idle for ten seconds before."""
        return sum(used - before.cpu.get(thread, 0) for thread, used in self.cpu.items()) / 1e9


def processes(fleet, program, home, count):
    """Host processes that connect, log in, make one signature and stay: what each costs the HSM."""
    hsm = fleet.hsms[0].process.pid
    before = Usage(hsm)
    begin = time.monotonic()
    there = [Contestant(program, f"{home}/idle{number}", fleet.label, fleet.entry()) for number in range(count)]
    for contestant in there:
        contestant.measure("p256-sign", 0.02, 1)
    after = Usage(hsm)
    tell(what="processes", count=count, seconds=time.monotonic() - begin, hsm_cpu_ms_each=after.since(before) / count * 1e3,
         hsm_bytes_each=(after.bytes - before.bytes) / count)
    for contestant in there:
        contestant.close()


class Client:
    """The host that only shakes hands (client.rs)."""

    def __init__(self, fleet):
        from run import Server

        origin, newest, entries = fleet.history()
        history = fleet.directory / "history.hex"
        history.write_text("\n".join(part.hex() for part in (origin, newest, *entries)))
        hsm = fleet.hsms[0]
        self.hsm = hsm.process.pid
        self.server = Server([str(CLIENT), str(fleet.host_key), str(history), fleet.trust, hsm.address.removeprefix("unix:")],
                             os.environ)
        if self.server.ready != {}:
            raise RuntimeError(f"the client did not start: {self.server.ready}")

    def ask(self, *words):
        """Seconds, and the HSM's CPU seconds."""
        before = Usage(self.hsm)
        answer = self.server.ask(*words, timeout=300)
        if "seconds" not in answer:
            raise RuntimeError(f"{words}: {answer}")
        return answer["seconds"], Usage(self.hsm).since(before)


def handshakes(client, count):
    """Of sessions and of connections, by one client on the same cores; and what the HSM's part of them costs."""
    for name in ("negotiate", "connect"):
        for threads in (1, 4):
            seconds, cpu = client.ask(name, count, threads)
            tell(what="handshakes", of=name, threads=threads, rate=count / seconds, hsm_cpu_ms_each=cpu / count * 1e3)


def idle(client, counts, seconds):
    """Connections that have been authenticated and do nothing."""
    held, first = 0, Usage(client.hsm)
    for count in counts:
        client.ask("hold", count - held)
        held = count
        time.sleep(min(1, seconds))
        before = Usage(client.hsm)
        time.sleep(seconds)
        after = Usage(client.hsm)
        more = after.bytes - first.bytes
        tell(what="idle", connections=count, hsm_bytes=after.bytes, hsm_bytes_each=more / count if count else 0,
             hsm_cpu_ms_per_second=after.since(before) / seconds * 1e3)
    client.ask("drop")


def starts(fleet, rounds):
    """From the start of an HSM to its readiness for an admission."""
    hsm, took = fleet.hsms[0], []
    for _ in range(rounds):
        hsm.kill()
        begin = time.monotonic()
        hsm.start()
        took.append(time.monotonic() - begin)
    tell(what="start", seconds=median(took))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true")
    smoke = parser.parse_args().smoke
    seconds, rounds = (0.2, 1) if smoke else (3, 5)
    from fleet import Fleet
    from run import build

    with tempfile.TemporaryDirectory(prefix="conclave-bench-") as home:
        program = build(home)
        embedded = Contestant(program, f"{home}/embedded", "bench")
        for hsms in (1, 2) if smoke else (1, 2, 3, 4):
            with Fleet(pathlib.Path(home, f"fleet{hsms}"), hsms=hsms, pin=PIN) as fleet:
                remote = Contestant(program, f"{home}/host{hsms}", fleet.label, fleet.entry())
                if hsms == 1:
                    latency(embedded, remote, seconds, rounds)
                throughput(remote, hsms, seconds)
                remote.close()
                if hsms == 1:
                    processes(fleet, program, home, 2 if smoke else 40)
        embedded.close()
        if smoke and not CLIENT.exists():
            return
        limits = {"max_connections": 8192, "max_connections_per_host": 8192}
        with Fleet(pathlib.Path(home, "handshakes"), hsms=1, pin=PIN, **limits) as fleet:
            client = Client(fleet)
            handshakes(client, 8 if smoke else 800)
            idle(client, (0, 10) if smoke else (0, 500, 2000), 0.1 if smoke else 10)
            client.server.close()
            starts(fleet, 1 if smoke else 5)


if __name__ == "__main__":
    main()
