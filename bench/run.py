#!/usr/bin/env python3
"""Runs the benchmark program over several PKCS#11 modules, interleaved, and compares them.

Each line is measured on one module after the other, in rounds whose order rotates, so that what the
machine does meanwhile strikes all of them alike. A rate is that of the best round, since whatever
disturbs a measurement makes it slower; other figures are medians over the rounds.
"""

import argparse
import json
import os
import pathlib
import re
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from lines import LINES, SMOKE
from modules import Conclave, Nss, OpenCryptoki, SoftHsm, Unavailable

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent


class Server:
    """A process of the benchmark program, or of the raw back end, that answers line by line."""

    def __init__(self, command, environment):
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.rest = b""
        self.ready = self.read(60)

    def read(self, timeout):
        deadline = time.monotonic() + timeout
        while b"\n" not in self.rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                self.close()
                return {"rv": "timed out"}
            part = os.read(self.process.stdout.fileno(), 65536)
            if not part:
                return {"rv": f"process ended ({self.process.wait()})"}
            self.rest += part
        line, _, self.rest = self.rest.partition(b"\n")
        return json.loads(line)

    def send(self, *words):
        try:
            self.process.stdin.write((" ".join(map(str, words)) + "\n").encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def ask(self, *words, timeout=60):
        self.send(*words)
        return self.read(timeout)

    def alive(self):
        return self.process.poll() is None

    def close(self):
        try:
            self.process.stdin.close()
            self.process.wait(10)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self.process.kill()
            self.process.wait()


class Contestant:
    """A module with the processes that serve it."""

    def __init__(self, module):
        self.module = module
        self.name = module.name
        self.servers = {}
        self.dead = {}

    def server(self, size):
        """The process on the token of that size, started again if it ended; None if there is none."""
        server = self.servers.get(size)
        if server and server.alive() and "rv" not in server.ready:
            return server
        token = self.module.token(size)
        if token is None or self.dead.get(size, 0) >= 5:
            return None
        self.dead[size] = self.dead.get(size, 0) + 1
        self.servers[size] = Server([*token.command, "serve"], token.environment)
        return self.servers[size] if "rv" not in self.servers[size].ready else None

    def only(self, size):
        """Ends the processes on tokens of other sizes."""
        for other in [other for other in self.servers if other != size]:
            self.servers.pop(other).close()

    def measure(self, line, seconds):
        if line.kind == "once":
            token = self.module.token(line.keys)
            return token.run(line.benchmark, line.keys, timeout=60) if token else {"rv": "not filled"}
        if line.kind == "processes":
            return self.processes(line, seconds)
        server = self.server(line.keys)
        if server is None:
            return {"rv": "not filled" if self.module.tokens.get(line.keys) is None else "does not start"}
        if line.kind == "gain":
            return gain(server, line, seconds)
        return server.ask(line.benchmark, seconds, line.threads, line.keys)

    def processes(self, line, seconds):
        """So many processes at once; a call that fails in any of them counts."""
        token = self.module.token(line.keys)
        if token is None:
            return {"rv": "not filled"}
        servers = [Server([*token.command, "serve"], token.environment) for _ in range(line.threads)]
        try:
            if broken := [server.ready for server in servers if "rv" in server.ready]:
                return {"rv": f"{len(broken)} do not start: {broken[0]['rv']}"}
            for server in servers:
                server.send(line.benchmark, seconds, 1, line.keys)
            answers = [server.read(120) for server in servers]
        finally:
            for server in servers:
                server.close()
        # A process of which no call succeeded, or which ended, counts as one failure at least.
        failed = sum(answer.get("failed", 1) for answer in answers)
        good = [answer for answer in answers if "rate" in answer]
        if not good:
            return {"rv": answers[0].get("rv", "failed")}
        return {
            "rate": sum(answer["rate"] for answer in good),
            "p50": statistics.median(answer["p50"] for answer in good),
            "p99": max(answer["p99"] for answer in good),
            "failed": failed,
        }

    def close(self):
        for server in self.servers.values():
            server.close()
        self.servers.clear()


class Raw:
    """The raw back end."""

    name = "raw"

    def __init__(self, program):
        self.program = Server([program], dict(os.environ))

    def only(self, size):
        pass

    def measure(self, line, seconds):
        if line.raw is None or not self.program.alive():
            return {"rv": "not measured"}
        if line.kind == "gain":
            return gain(self.program, line, seconds)
        return self.program.ask(line.benchmark, seconds, line.threads)

    def close(self):
        self.program.close()


def gain(server, line, seconds):
    """The rate of two threads over that of one, measured one right after the other."""
    one = server.ask(line.benchmark, seconds / 2, 1, line.keys)
    two = server.ask(line.benchmark, seconds / 2, line.threads, line.keys)
    if "rate" not in one or "rate" not in two:
        return {"rv": one.get("rv", two.get("rv", "failed"))}
    return {"rate": two["rate"] / one["rate"]}


def measure_all(lines, contestants, seconds, rounds, progress):
    """The answers by line and contestant: {label: {name: {field: number}}}."""
    results, shared = {}, {}
    for number, line in enumerate(lines):
        # Lines that read different fields of one measurement share it.
        key = (line.benchmark, line.kind, line.threads, line.keys)
        if key not in shared:
            progress(f"[{number + 1}/{len(lines)}] {line.label}")
            answers = {contestant.name: [] for contestant in contestants}
            hopeless = set()
            for turn in range(rounds):
                order = contestants[turn % len(contestants):] + contestants[:turn % len(contestants)]
                for contestant in order:
                    if contestant.name in hopeless:
                        continue
                    contestant.only(line.keys)
                    answer = contestant.measure(line, seconds * line.factor)
                    answers[contestant.name].append(answer)
                    if "rv" in answer and "failed" not in answer:
                        hopeless.add(contestant.name)
            shared[key] = {name: summary(given, line.kind) for name, given in answers.items() if given}
        results[line.label] = shared[key]
    return results


def summary(answers, kind):
    """The best rate, the median of every other number; failures add up."""
    good = [answer for answer in answers if "rv" not in answer or "failed" in answer]
    if not good:
        return answers[0]
    numbers = {
        field: statistics.median(answer[field] for answer in good if field in answer)
        for field, value in good[0].items()
        if isinstance(value, (int, float))
    }
    if kind == "rate":
        numbers["rate"] = max(answer["rate"] for answer in good)
    if "failed" in numbers:
        numbers["failed"] = sum(answer.get("failed", 0) for answer in good)
    return numbers


def compare(line, answers, modules):
    """What the table says of one line."""

    def value(name):
        answer = answers.get(name, {})
        return answer[line.field] * line.scale if line.field in answer else None

    ours = value("conclave")
    peers = [module for module in modules if module.name != "conclave" and value(module.name) is not None]
    rivals = [module for module in peers if module.durable or not line.durable]
    best = (min if line.lower_is_better else max)(rivals, key=lambda module: value(module.name), default=None)
    row = {
        "line": line.label,
        "unit": line.unit,
        "ours": ours,
        "p50": answers.get("conclave", {}).get("p50") if line.kind == "rate" else None,
        "p99": answers.get("conclave", {}).get("p99") if line.kind == "rate" else None,
        "peers": {module.name: value(module.name) for module in peers},
        "not_durable": [module.name for module in peers if line.durable and not module.durable],
        "best": best.name if best else None,
        "best_value": value(best.name) if best else None,
        "ratio": None,
        "raw": value("raw"),
        "raw_ratio": None,
        "short": [],
        "why": answers.get("conclave", {}).get("rv"),
    }
    if ours is None:
        return row
    if best and line.field != "failed":
        theirs = value(best.name)
        row["ratio"] = (theirs / ours if ours else None) if line.lower_is_better else (ours / theirs if theirs else None)
    if row["raw"]:
        row["raw_ratio"] = ours / row["raw"]
    short = row["short"]
    if line.ahead and row["ratio"] is not None and row["ratio"] < 1:
        short.append("behind")
    if line.raw and row["raw_ratio"] is not None and row["raw_ratio"] < line.raw:
        short.append(f"raw < {line.raw:g}")
    if line.p50 is not None and row["p50"] is not None and row["p50"] > line.p50:
        short.append(f"p50 > {line.p50:g} µs")
    if line.least is not None and ours < line.least:
        short.append(f"< {line.least:,.0f}".replace(",", " "))
    if line.most is not None and ours > line.most:
        short.append(f"> {line.most:g}")
    return row


def wanted(line):
    parts = []
    if line.ahead:
        parts.append("ahead")
    if line.raw:
        parts.append(f"raw {line.raw:g}")
    if line.p50 is not None:
        parts.append(f"p50 {line.p50:g}")
    if line.least is not None:
        parts.append(f"≥ {line.least / 1000:g} k")
    if line.most is not None:
        parts.append(f"≤ {line.most:g}")
    return ", ".join(parts)


def number(value):
    if value is None:
        return "–"
    if value >= 10_000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def table(lines, rows, modules, markdown):
    """The rows as text, or as a Markdown table."""
    peers = [module for module in modules if module.name != "conclave"]
    header = ["line", "", "ours", "p50 µs", "p99 µs", *[peer.title for peer in peers], "ratio", "raw ratio", "wanted", "met"]
    body = []
    for line, row in zip(lines, rows):
        met = "–" if row["ours"] is None else "no: " + ", ".join(row["short"]) if row["short"] else "yes"
        cells = [
            number(row["peers"].get(peer.name)) + ("*" if peer.name in row["not_durable"] else "") for peer in peers
        ]
        body.append([
            row["line"] if not markdown else row["line"].strip(), row["unit"], number(row["ours"]), number(row["p50"]),
            number(row["p99"]), *cells, number(row["ratio"]), number(row["raw_ratio"]), wanted(line), met,
        ])
    if markdown:
        rule = ["---"] + ["---"] + ["---:"] * (len(header) - 4) + ["---", "---"]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *body])
    widths = [max(len(cells[i]) for cells in [header, *body]) for i in range(len(header))]
    left = {0, 1, len(header) - 2, len(header) - 1}
    return "\n".join(
        "  ".join(cell.ljust(width) if i in left else cell.rjust(width) for i, (cell, width) in enumerate(zip(cells, widths))).rstrip()
        for cells in [header, *body]
    )


def build(directory):
    """Compiles the C program."""
    program = pathlib.Path(directory) / "pkcs11_bench"
    sources = [str(path) for path in sorted(HERE.glob("*.c"))]
    subprocess.run(
        [os.environ.get("CC", "gcc"), "-std=c11", "-O2", "-Wall", "-Wextra", "-I/usr/include/p11-kit-1", "-o", str(program),
         *sources, "-ldl", "-lpthread"],
        check=True,
    )
    return str(program)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--module", default=os.environ.get("CONCLAVE_MODULE", str(ROOT / "target/release/libconclave.so")))
    parser.add_argument("--raw", default=str(ROOT / "target/release/examples/raw_backend"))
    parser.add_argument("--seconds", type=float, default=0.3, help="for one line, of one module, in one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", metavar="PATTERN", help="lines whose label or benchmark matches the regular expression")
    parser.add_argument("--peers", default="softhsm2,nss,opencryptoki")
    parser.add_argument("--full", action="store_true", help="fill for as long as it takes")
    parser.add_argument("--smoke", action="store_true", help="a few lines, briefly: does it run at all?")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument("--markdown", metavar="FILE", help="write the table there")
    parser.add_argument("--directory", help="where the tokens go; a disk, not memory (default: target/bench)")
    return parser.parse_args()


def main():
    options = arguments()
    lines = LINES
    if options.smoke:
        options.seconds, options.rounds, options.peers = 0.05, 1, "softhsm2"
        lines = [line for line in lines if line.benchmark in SMOKE and line.keys == 10 and line.threads <= 2
                 and line.kind in ("rate", "once", "processes")]
    if options.only:
        pattern = re.compile(options.only, re.IGNORECASE)
        lines = [line for line in lines if pattern.search(line.label) or pattern.search(line.benchmark)]
    progress = (lambda text: print(text, file=sys.stderr, flush=True)) if not options.smoke else (lambda text: None)

    base = pathlib.Path(options.directory or ROOT / "target/bench")
    base.mkdir(parents=True, exist_ok=True)
    program = build(base)
    directory = tempfile.mkdtemp(prefix="tokens-", dir=base)
    budget = 3600 if options.full else 60
    known = {"softhsm2": SoftHsm, "nss": Nss, "opencryptoki": OpenCryptoki}
    modules = [Conclave(program, directory, budget, options.module)]
    modules += [known[name](program, directory, budget) for name in options.peers.split(",") if name]

    taking_part, status = [], 0
    contestants = []
    try:
        for module in modules:
            try:
                module.start()
                module.token(10)
                taking_part.append(module)
                contestants.append(Contestant(module))
            except Unavailable as reason:
                print(f"{module.title} does not take part: {reason}", file=sys.stderr)
                status = 1 if module.name == "conclave" else status
        if os.path.exists(options.raw):
            contestants.append(Raw(options.raw))
        elif not options.smoke:
            print(f"no raw back end: {options.raw} is not there", file=sys.stderr)
        begun = time.monotonic()
        results = measure_all(lines, contestants, options.seconds, options.rounds, progress)
        rows = [compare(line, results[line.label], taking_part) for line in lines]
        print(table(lines, rows, taking_part, markdown=False))
        print("\n–: not offered, or not filled in the time allowed. *: does not write durably, not compared. "
              "ratio: to the best peer,\nabove 1 is ahead.", end="")
        short = [row for row in rows if row["short"]]
        print(f" {len(lines)} lines in {time.monotonic() - begun:.0f} s, {len(short)} short of what is wanted.")
        for module in taking_part:
            if module.note:
                print(f"{module.title}: {module.note}")
        if status == 0 and (missing := [row for row in rows if row["ours"] is None]):
            for row in missing:
                print(f"{row['line'].strip()}: no figure of ours ({row['why']})")
            status = 1
        if options.json:
            pathlib.Path(options.json).write_text(json.dumps({"rows": rows, "results": results}, indent=1))
        if options.markdown:
            pathlib.Path(options.markdown).write_text(table(lines, rows, taking_part, markdown=True) + "\n")
    finally:
        for contestant in contestants:
            contestant.close()
        for module in modules:
            module.stop()
        shutil.rmtree(directory, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
