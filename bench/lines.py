"""What is measured, and what is wanted of it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the table.

    kind: "rate" (operations a second in one process), "gain" (what a second thread brings),
    "processes" (so many processes at once on one token), "once" (a fresh process each time).
    """

    label: str
    benchmark: str
    kind: str = "rate"
    field: str = "rate"
    threads: int = 1
    keys: int = 10
    scale: float = 1.0  # of the field, for printing
    unit: str = "1/s"
    durable: bool = False  # compared with those peers only that write durably
    raw: float | None = None  # wanted share of the raw back end's rate; 0: printed, nothing wanted
    p50: float | None = None  # wanted, µs
    least: float | None = None
    most: float | None = None
    ahead: bool = True  # wanted: ahead of the best peer
    factor: float = 1.0  # of the usual time

    @property
    def lower_is_better(self):
        return self.kind == "once" or (self.kind == "processes" and self.field != "rate")


FAST = 0.5
SIZES = (10, 1_000, 10_000, 100_000)


def spelled(size):
    return f"{size:,}".replace(",", " ")


def signatures(title, name):
    return [
        Line(f"{title} sign", f"{name}-sign", raw=0.9, factor=2 if "rsa" in name else 1),
        Line(f"{title} verify", f"{name}-verify", raw=0.9),
    ]


def once(label, command, field, most=None, keys=10, ahead=True, scale=1e-3, unit="ms"):
    return Line(label, command, "once", field, keys=keys, scale=scale, unit=unit, most=most, ahead=ahead)


LINES = [
    once("C_Initialize and first random", "initialize", "both", most=10),
    Line("open and close a session", "session", p50=FAST),
    Line("random, 32 B", "random-32", p50=FAST, raw=0),
    Line("SHA-256, 64 B", "sha256-64", p50=FAST, raw=0),
    Line("SHA-256, 16 KiB", "sha256-16k", raw=0),
    Line("SHA-512, 16 KiB", "sha512-16k", raw=0),
    Line("AES-256-GCM, 32 B", "aes-gcm-32", p50=FAST, raw=0),
    Line("AES-256-GCM, 4 KiB", "aes-gcm-4k", raw=0),
    Line("AES-256-GCM, 1 MiB", "aes-gcm-1m", raw=0),
    Line("AES-256-GCM decrypt, 32 B", "aes-gcm-open-32", p50=FAST),
    Line("AES-256-GCM decrypt, 4 KiB", "aes-gcm-open-4k"),
    Line("AES-256-CBC, 32 B", "aes-cbc-32", p50=FAST),
    Line("AES-256-CBC, 4 KiB", "aes-cbc-4k"),
    Line("HMAC-SHA-256, 64 B", "hmac-64", p50=FAST, raw=0),
    *signatures("RSA-2048", "rsa2048"),
    *signatures("RSA-3072", "rsa3072"),
    *signatures("RSA-4096", "rsa4096"),
    *signatures("ECDSA P-256", "p256"),
    *signatures("ECDSA P-384", "p384"),
    *signatures("Ed25519", "ed25519"),
    Line("ECDH P-256", "ecdh-p256", raw=0.9),
    Line("X25519", "x25519", raw=0.9),
    Line("generate AES-256, session", "generate-aes"),
    Line("generate P-256, session", "generate-p256"),
    Line("generate RSA-2048, session", "generate-rsa2048", factor=5),
    Line("generate AES-256, token", "generate-aes-token", durable=True),
    Line("generate P-256, token", "generate-p256-token", durable=True),
    Line("generate RSA-2048, token", "generate-rsa2048-token", durable=True, factor=5),
    Line("wrap (AES key wrap)", "wrap"),
    Line("unwrap (AES key wrap)", "unwrap"),
    Line("create object, session", "create"),
    Line("destroy object, session", "destroy"),
    Line("create object, token", "create-token", durable=True, factor=2),
    Line("destroy object, token", "destroy-token", durable=True, factor=2),
    Line("read 3 attributes, session key", "attributes", p50=FAST),
    Line("read 3 attributes, token key", "attributes-token", p50=FAST),
    *[Line(f"2 threads: {label}", name, threads=2, durable=name == "create-token") for label, name in (
        ("P-256 sign", "p256-sign"), ("RSA-2048 sign", "rsa2048-sign"), ("AES-GCM 32 B", "aes-gcm-32"),
        ("session", "session"), ("random 32 B", "random-32"), ("find by label", "find-label"),
        ("create, token", "create-token"))],
    *[Line(f"8 threads: {label}", name, threads=8, durable=name == "create-token") for label, name in (
        ("P-256 sign", "p256-sign"), ("AES-GCM 32 B", "aes-gcm-32"), ("find by label", "find-label"),
        ("create, token", "create-token"))],
    *[Line(f"2nd thread's gain: {label}", name, "gain", threads=2, unit="x", raw=0.9, ahead=False, factor=2)
      for label, name in (("P-256 sign", "p256-sign"), ("RSA-2048 sign", "rsa2048-sign"),
                          ("AES-GCM 32 B", "aes-gcm-32"), ("AES-GCM 4 KiB", "aes-gcm-4k"))],
    *[line for count in (1, 2, 8) for line in (
        Line(f"{count} processes: create, token", "create-token", "processes", threads=count, durable=True, factor=4),
        Line(f"{count} processes: failed calls", "create-token", "processes", "failed", threads=count, unit="",
             most=0, ahead=False, factor=4),
        Line(f"{count} processes: slowest p99", "create-token", "processes", "p99", threads=count, durable=True,
             scale=1e-3, unit="ms", most=50, factor=4))],
    *[line for size in SIZES for line in (
        Line(f"find by label, {spelled(size)} keys", "find-label", keys=size, least=1e5),
        Line(f"find by id, {spelled(size)} keys", "find-id", keys=size, least=1e5),
        once(f"cold start to signature, {spelled(size)}", "cold", "cold", most=8, keys=size),
        once(f"  C_Login in it, {spelled(size)}", "cold", "login", keys=size, ahead=False),
        once(f"memory in use, {spelled(size)} keys", "memory", "used", most=16, keys=size, scale=1 / 1024,
             unit="MiB"),
        once(f"  after listing them all, {spelled(size)}", "memory", "listed", most=16, keys=size, scale=1 / 1024,
             unit="MiB"))],
]

SMOKE = {"session", "aes-gcm-32", "p256-sign", "create-token", "find-label", "initialize", "cold", "memory"}
