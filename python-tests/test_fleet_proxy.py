"""The module behind a hostile network: the application sees the right result, or CKR_DEVICE_ERROR."""

import os
import struct
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from fleet import Fleet
from hosts import HostProcess, wait_until
from proxy import TO_HOST, TO_HSM, Proxy

DOWN = "CKR_DEVICE_ERROR"
NEGOTIATE = 2


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    with Fleet(tmp_path_factory.mktemp("proxied") / "fleet", hsms=2, frame_time=2, handshake_time=2) as made:
        yield made
        assert all(hsm.alive for hsm in made.hsms)


@pytest.fixture(scope="module")
def proxy(fleet):
    made = Proxy(fleet.directory / "proxy.sock", fleet.hsms[0].address)
    yield made
    made.close()


def process(fleet, name, *addresses, **more):
    entry = fleet.entry(hsms=list(addresses), timeout=1, pool=2, **more)
    return HostProcess(fleet.directory, name, entry, fleet.pin)


@pytest.fixture(scope="module")
def hosts(fleet, proxy):
    """One that has no other way, one that has, and one that does not know of the proxy."""
    first, second = (hsm.address for hsm in fleet.hsms)
    made = [process(fleet, "alone", proxy.address), process(fleet, "spoilt", proxy.address, second),
            process(fleet, "direct", first)]
    for host in made:
        host.do("keys")
    yield made
    for host in made:
        host.close()


def framed(data):
    return struct.pack(">I", len(data)) + data


def flipped(frame, where):
    changed = bytearray(frame)
    changed[where] ^= 1
    return bytes(changed)


def reflected(pair, way, frame):
    (pair.host if way == TO_HSM else pair.hsm).sendall(frame)
    return b""


def spliced(pair, way, _):
    others = [other for other in pair.proxy.pairs if other is not pair and other.linked]
    return others[-1].frames[way][-1] if others else framed(os.urandom(60))


def lost(pair, _way, _frame):
    pair.close()
    return b""


ATTACKS = {
    "replayed": lambda pair, way, frame: frame + frame,
    "flipped": lambda pair, way, frame: flipped(frame, -1),
    "said to be the last, or not": lambda pair, way, frame: flipped(frame, 4),
    "truncated": lambda pair, way, frame: framed(frame[4:-1]),
    "stopped in the middle": lambda pair, way, frame: frame[:-1],
    "injected": lambda pair, way, frame: framed(b"\x01" + os.urandom(80)) + frame,
    "reordered": lambda pair, way, frame: framed(b"\x00" + frame[5:]) + frame,
    "of another connection": spliced,
    "reflected": reflected,
    "oversize": lambda pair, way, frame: b"\xff" * 4 + frame,
    "nothing": lambda pair, way, frame: bytes(4) + frame,
    "withheld": lambda pair, way, frame: b"",
    "lost": lost,
}


def one_way(name, way):
    return lambda pair, direction, frame: ATTACKS[name](pair, way, frame) if direction == way else None


@pytest.mark.parametrize("way", [TO_HSM, TO_HOST])
@pytest.mark.parametrize("name", ATTACKS)
def test_frames(proxy, hosts, name, way):
    """One frame is tampered with, and there is no other HSM; what was sent twice is refused in the next request."""
    alone, _, direct = hosts
    proxy.attack(one_way(name, way))
    tries = {alone.do(what) for what in ("signs", "encrypts", "signs")}
    assert tries <= {True, DOWN} and proxy.attacks, tries
    assert direct.do("signs") is True
    wait_until(lambda: alone.do("signs") is True)


@pytest.mark.parametrize("name", ["withheld", "flipped", "replayed"])
def test_another_hsm(proxy, hosts, name):
    """Who has another HSM notices nothing."""
    spoilt = hosts[1]
    for way in TO_HSM, TO_HOST:
        proxy.attack(one_way(name, way))
        tries = set()
        wait_until(lambda tries=tries: tries.add(spoilt.do("signs")) or proxy.attacks)
        tries |= {spoilt.do(what) for what in ("encrypts", "signs")}
        assert tries == {True}


def test_a_network_that_is_always_hostile(proxy, hosts):
    """As long as it lasts, there is one answer."""
    alone, spoilt, direct = hosts
    proxy.attack(one_way("flipped", TO_HOST), times=1 << 30)
    assert {alone.do("signs") for _ in range(3)} == {DOWN}
    assert {host.do("signs") for host in (spoilt, direct)} == {True}
    proxy.calm()
    wait_until(lambda: alone.do("signs") is True)


@pytest.mark.parametrize("where", [5, 40, -30, -1])
@pytest.mark.parametrize("way", [TO_HSM, TO_HOST])
def test_handshakes(fleet, proxy, hosts, way, where):
    """What is said before there is a key is tampered with: the other HSM serves."""
    direct = hosts[2]

    def attack(_pair, direction, frame):
        return flipped(frame, where) if direction == way and len(frame) > 100 else None

    proxy.attack(attack, times=1 << 30, clear=True)
    host = process(fleet, f"handshake{way[-1]}{where}", proxy.address, fleet.hsms[1].address)
    host.do("keys")
    wait_until(lambda: host.do("signs") is True and proxy.attacks)
    assert direct.do("signs") is True
    proxy.calm()
    host.close()


def test_anothers_reply(fleet, proxy, hosts):
    """A host is given what the HSM answered to another."""
    kept = []

    def is_reply(pair, way):
        return way == TO_HOST and pair.frames[TO_HSM][-1][5] == NEGOTIATE

    def keep(pair, way, frame):
        if is_reply(pair, way):
            kept.append(frame)
            return frame
        return None

    proxy.attack(keep, clear=True)
    process(fleet, "thief", proxy.address, host_key=fleet.admit_host("thief")).close()
    assert kept
    proxy.attack(lambda pair, way, frame: kept[0] if is_reply(pair, way) else None, clear=True)
    host = process(fleet, "misled", proxy.address, fleet.hsms[1].address)
    host.do("keys")
    assert host.do("signs") is True
    wait_until(lambda: host.do("signs") is True and proxy.attacks)
    proxy.calm()
    assert hosts[2].do("signs") is True
    host.close()


def test_an_expelled_host(fleet, proxy):
    """Its open connections end, and it is told why."""
    guest = process(fleet, "guest", proxy.address, host_key=fleet.admit_host("guest"))
    guest.do("keys")
    assert guest.do("signs") is True
    (expelled,) = [host.id for host in fleet.state().hosts if host.name == "guest"]
    fleet.execute("expel host", expelled)
    guest.tell("signs")
    answer = guest.answer()
    assert answer["error"] == DOWN and "not in the domain" in answer["sentence"], answer
    guest.close()


def test_a_host_key_under_a_passphrase(fleet):
    plain = serialization.load_pem_private_key(Path(fleet.admit_host("guarded")).read_bytes(), None)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    key, words = fleet.directory / "under-words.pem", fleet.directory / "words"
    for path, content in [(key, plain.private_bytes(*form, serialization.BestAvailableEncryption(b"some words"))),
                          (words, b"some words\n")]:
        path.touch(0o600)
        path.write_bytes(content)
    host = process(fleet, "guarded", fleet.hsms[0].address, host_key=key, host_key_passphrase=f"file:{words}")
    host.do("keys")
    assert host.do("signs") is True
    host.close()


def test_a_rotation(fleet, hosts):
    """Session keys, connections and the login end, and nobody notices."""
    fleet.execute("rotate domain key", None)
    for host in hosts:
        assert host.do("signs") is True
        assert host.do("encrypts") is True
