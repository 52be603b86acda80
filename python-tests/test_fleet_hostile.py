"""A hostile network between hosts and conclaved, which knows who its hosts are.

The peer is the honest host and everybody else. After each attack the connection is closed, nothing was
said but a refusal's number, and the HSM serves the honest host.
"""

import json
import os
import signal
import socket
import struct
import time

import pytest

from fleet import Hsm as Daemon
from hosts import wait_until
from peer.channel import (
    BEHIND, BRING, CALL, DONE, ERROR, PING, RENEW, REPLY, Closed, Hosted, Refusal, Stream, negotiate, status,
)
from peer.encoding import Refused
from peer.fleet import LOGIN, Fleet, Party, sealer
from peer.identity import HSM
from peer.session import CONNECT, NEGOTIATE, Host, Hsm, Terms, clear, framed, unframed

PIN = b"2468-fleet"
NO, BUSY, NOT_MEMBER, OLD, TOO_LARGE, EXPIRED = 1, 2, 3, 4, 5, 6
CKR_USER_NOT_LOGGED_IN = 0x101


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("fleet")


@pytest.fixture(scope="module")
def fleet(directory):
    """Two HSMs that wait for nobody longer than a second or two."""
    quick = {"handshake_time": 2, "frame_time": 2, "log_format": "json"}
    first = Daemon(directory, "a", **quick).start()
    made = Fleet(first)
    second = Daemon(directory, "b", made.fingerprint, **quick).start()
    made.admit(second)
    yield made
    for hsm in made.hsms:
        hsm.kill(signal.SIGTERM)
        assert hsm.process.returncode == 0
        logged = hsm.log.read_text()
        assert all(json.loads(line) for line in logged.splitlines())
        assert PIN.decode() not in logged and "panicked" not in logged


@pytest.fixture(scope="module")
def host(fleet):
    return fleet.admit_host("web-1")


@pytest.fixture(scope="module")
def thief(fleet):
    """A host that is admitted, and captured."""
    return fleet.admit_host("web-2")


@pytest.fixture
def hsm(fleet, host):
    """The HSM that is attacked; it serves the honest host right after."""
    attacked = fleet.hsms[0]
    yield attacked
    assert attacked.alive
    assert fleet.serves(host, attacked)


@pytest.fixture
def link(fleet, host, hsm):
    """An honest connection that was used."""
    with fleet.connect(host, hsm) as connection:
        assert connection.ping()
        yield connection


def refusal(stream, wire):
    """The number that is all the answer there is."""
    stream.write(wire)
    reply = stream.read()
    assert len(reply) == 4 and reply[:3] == b"\x82\x18\xff", reply
    return reply[3]


def refused(hsm, *message):
    with Stream(hsm.address) as stream:
        code = refusal(stream, clear(*message))
        assert code == OLD or code == EXPIRED or stream.ends()
        return code


def rejected(link, data):
    """That an HSM closes a connection without a word on what comes by it."""
    try:
        link.stream.write(data)
    except Closed:
        return True
    return link.stream.ends()


# Frames


def test_a_replayed_frame(link):
    wire = link.sealed(PING)
    link.stream.write(wire)
    assert link.answer() == [DONE]
    assert rejected(link, wire)


def test_a_replayed_connection(fleet, host, hsm):
    """Everything that a host ever sent, once more."""
    session = fleet.negotiate(host, hsm)
    link = fleet.connect(host, hsm, session, greet=False)
    with Stream(hsm.address) as stream, link:
        link.stream.write(link.hello)
        link.stream.read()
        wire = link.sealed(PING)
        stream.ask(clear(CONNECT, session.ekt, bytes.fromhex(P384_POINT)))
        stream.write(link.hello + wire)
        assert stream.ends()


def test_reordered_frames(link):
    first, *others = unframed(link.sealed(CALL, [LOGIN, bytes(200_000), [[1], 1, b""]]))
    assert len(others) > 1
    assert rejected(link, b"".join(map(framed, [others[0], first, *others[1:]])))


def test_a_reflected_frame(link):
    link.stream.write(link.sealed(PING))
    assert rejected(link, framed(link.stream.read()))


def test_a_frame_of_another_connection(fleet, host, hsm, link):
    with fleet.connect(host, hsm) as other:
        assert other.ping()
        wire = other.sealed(PING)
        other.stream.write(wire)
        assert other.answer() == [DONE]
        assert rejected(link, wire)
        assert other.ping()


def test_a_truncated_message(link):
    """The frames but the last, the first of these said to be the last."""
    frames = unframed(link.sealed(CALL, [LOGIN, bytes(100_000), [[1], 1, b""]]))
    assert rejected(link, framed(b"\x01" + frames[0][1:]))


def test_a_truncated_frame(link):
    link.stream.write(link.sealed(PING)[:-1])
    link.stream.socket.shutdown(socket.SHUT_WR)
    assert link.stream.ends()


@pytest.mark.parametrize("length", [0, 1, 16, 17])
def test_a_frame_with_nothing_in_it(link, length):
    assert rejected(link, framed(link.sealed(PING)[4:4 + length]))


@pytest.mark.parametrize("where", [4, 5, 20, -17, -1])
def test_a_flipped_bit(link, where):
    wire = bytearray(link.sealed(PING))
    wire[where] ^= 1
    assert rejected(link, bytes(wire))


def test_an_injected_frame(link):
    assert rejected(link, framed(b"\x01" + os.urandom(100)))


def test_bytes_behind_a_request(link):
    """A host that is let in speaks no better than it should."""
    assert rejected(link, link.sealed(PING, padding=1))


def test_an_unknown_request(link):
    assert rejected(link, link.sealed(1000))


def test_another_process_secret(fleet, host, hsm):
    """Who has the host's key, and saw its process's name on the network."""
    stolen = Host(host.key, host.host)
    session = fleet.negotiate(host, hsm)
    stolen.secret = os.urandom(32)
    link = Hosted(hsm.address, stolen, session, fleet.domain, hsm.id, greet=False)
    assert rejected(link, link.hello)


# Time and size


def test_a_slow_frame(fleet, host, hsm, link):
    """Somebody sends a byte now and then; the others are served meanwhile."""
    started = time.monotonic()
    for byte in link.sealed(PING):
        try:
            link.stream.write(bytes([byte]))
        except Closed:
            break
        assert fleet.serves(host, hsm)
        time.sleep(0.1)
    assert time.monotonic() - started < 5


def test_slow_strangers(fleet, host, hsm):
    """A crowd that says nothing, and one that says a little."""
    streams = [Stream(hsm.address) for _ in range(50)]
    for stream in streams[::2]:
        stream.write(b"\x00\x00")
    assert fleet.serves(host, hsm)
    started = time.monotonic()
    assert all(stream.ends() for stream in streams)
    assert time.monotonic() - started < 8


@pytest.mark.parametrize("length", [1 << 16 | 1, 1 << 24, (1 << 32) - 1])
def test_an_oversize_clear_message(hsm, length):
    with Stream(hsm.address) as stream:
        assert refusal(stream, struct.pack(">I", length) + b"\x82\x02") == TOO_LARGE
        assert stream.ends()


def test_an_oversize_frame(link):
    assert rejected(link, struct.pack(">I", (1 << 32) - 1) + bytes(1000))


# Before the handshake


GARBAGE = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: hsm\r\n\r\n",
    "TLS": bytes.fromhex("160301020001000200f00303") + bytes(500),
    "zeros": bytes(64),
    "random": framed(os.urandom(600)),
    "no array": framed(b"\x00"),
    "deep": framed(b"\x81" * 4000),
    "long array": framed(b"\x9b" + b"\xff" * 8),
    "unknown": clear(77),
    "two fields too many": clear(0, 1, 2),
    "no connection": clear(CONNECT, b"", bytes(120)),
    "no request": clear(NEGOTIATE, b""),
    "an administrator": clear(4),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage(hsm, name):
    with Stream(hsm.address) as stream:
        stream.write(GARBAGE[name])
        try:
            reply = stream.read()
        except Closed:
            return
        assert len(reply) == 4 and reply[:3] == b"\x82\x18\xff"
        assert reply[3] in (NO, TOO_LARGE, EXPIRED)


def test_a_replayed_message_1(fleet, host, hsm):
    message1, kept = host.begin(fleet.domain, hsm.id)
    host.finish(fleet.domain, kept, negotiate(hsm.address, message1), fleet.key_of(hsm.id))
    assert refused(hsm, NEGOTIATE, message1) == NO


def test_a_message_1_for_another_hsm(fleet, host, hsm):
    message1, _ = host.begin(fleet.domain, fleet.hsms[1].id)
    assert refused(hsm, NEGOTIATE, message1) == NO


@pytest.mark.parametrize("late", [-130, 200])
def test_a_message_1_of_another_time(fleet, host, hsm, late):
    message1, _ = host.begin(fleet.domain, hsm.id, now=int(time.time()) + late)
    assert refused(hsm, NEGOTIATE, message1) == NO


def test_flipped_bits_of_message_1(fleet, host, hsm):
    message1, _ = host.begin(fleet.domain, hsm.id)
    for where in range(0, len(message1), 7):
        flipped = bytearray(message1)
        flipped[where] ^= 4
        assert refused(hsm, NEGOTIATE, bytes(flipped)) in (NO, OLD), where


def test_a_handshake_of_another_domain(fleet, host, hsm):
    """The host is one there too, and that domain's HSM has taken this one's id."""
    domain = fleet.domain._replace(id=os.urandom(16))
    message1, _ = host.begin(domain, hsm.id)
    assert refused(hsm, NEGOTIATE, message1) == NO


def test_a_stranger(fleet, hsm):
    stranger = Host(Party("x").signing, os.urandom(16))
    message1, _ = stranger.begin(fleet.domain, hsm.id)
    assert refused(hsm, NEGOTIATE, message1) == NO


def test_a_host_in_anothers_name(fleet, host, thief, hsm):
    message1, _ = Host(thief.key, host.host).begin(fleet.domain, hsm.id)
    assert refused(hsm, NEGOTIATE, message1) == NO


def test_anothers_reply(fleet, host, thief, hsm):
    """The host is shown what the HSM answered to another."""
    _, kept = host.begin(fleet.domain, hsm.id)
    theirs, _ = thief.begin(fleet.domain, hsm.id)
    reply = negotiate(hsm.address, theirs)
    with pytest.raises(Refused, match="it answers another message"):
        host.finish(fleet.domain, kept, reply, fleet.key_of(hsm.id))


def test_anothers_session(fleet, host, thief, hsm):
    """A captured host shows the session key that another was given, sealed."""
    theirs, own = fleet.negotiate(host, hsm), fleet.negotiate(thief, hsm)
    link = fleet.connect(thief, hsm, own._replace(ekt=theirs.ekt), greet=False)
    assert rejected(link, link.hello)


def test_flipped_bits_of_a_session(fleet, host, hsm):
    session = fleet.negotiate(host, hsm)
    for where in range(0, len(session.ekt), 11):
        flipped = bytearray(session.ekt)
        flipped[where] ^= 2
        with pytest.raises(Refusal) as found:
            fleet.connect(host, hsm, session._replace(ekt=bytes(flipped)))
        assert found.value.code in (NO, EXPIRED), where


def test_an_expired_session(fleet, host, hsm):
    """No new connection, and the open one ends."""
    session = fleet.negotiate(host, hsm, lifetime=2)
    with fleet.connect(host, hsm, session) as link:
        assert link.ping()
        wait_until(lambda: time.time() >= session.valid_until + 1)
        with pytest.raises(Refusal) as found:
            fleet.connect(host, hsm, session)
        assert found.value.code == EXPIRED
        with pytest.raises(Closed):
            link.ping()


# Changes of the domain


def test_an_expelled_host(fleet, hsm):
    expelled = fleet.admit_host("web-9")
    links = [fleet.connect(expelled, each) for each in fleet.hsms]
    session = fleet.negotiate(expelled, hsm)
    assert all(link.ping() for link in links)
    fleet.execute("expel host", expelled.host)
    assert all(link.stream.ends() for link in links)
    with pytest.raises(Refusal) as found:
        fleet.connect(expelled, hsm, session)
    assert found.value.code == NO
    message1, _ = expelled.begin(fleet.domain, hsm.id)
    assert refused(hsm, NEGOTIATE, message1) == NO


def test_an_hsm_that_is_behind(fleet, host, hsm):
    """It does nothing for a host that knows more, and is brought forward."""
    with fleet.connect(host, hsm) as link:
        before = fleet.domain
        fleet.execute("set limits", fleet.state.limits._replace(offer=601), bring=False)
        link.domain = fleet.domain
        assert link.ask(PING) in ([BEHIND], [DONE])
        assert link.ask(CALL, [7]) == [BEHIND]
        message1, _ = host.begin(fleet.domain, hsm.id)
        assert refused(hsm, NEGOTIATE, message1) == OLD
        # What was there before is no change.
        after = fleet.domain.version - 1
        assert link.ask(BRING, fleet.origin, fleet.newest, after, fleet.entries[-1:])[0] in (DONE, REPLY)
        assert status(hsm.address)[3] == fleet.domain.version == before.version + 1
        assert link.ping()
    for each in fleet.hsms:
        fleet.bring(each)


def test_a_state_that_nobody_signed(fleet, host, hsm):
    """Histories that were tampered with change nothing."""
    held = status(hsm.address)
    newest = bytearray(fleet.newest)
    newest[-1] ^= 1
    with Stream(hsm.address) as stream:
        try:
            reply = stream.clear(1, fleet.origin, bytes(newest), held[3], [])
            assert reply[1:] == held
        except Refusal as found:
            assert found.code == NO
    assert status(hsm.address) == held


def test_a_ticket_of_another_process(fleet, host, thief, hsm):
    """A stolen login opens nothing without the process that it is of."""
    record = fleet.make_user(host, hsm, PIN)
    with fleet.connect(host, hsm) as link:
        kind, ticket = link.call(LOGIN, PIN, record)
        assert link.ask(RENEW, record, ticket=ticket)[0] == REPLY
    same_key = Host(host.key, host.host)
    for stranger in same_key, thief:
        with fleet.connect(stranger, hsm) as link:
            answer = link.ask(RENEW, record, ticket=ticket)
            assert (answer[0], answer[1][0]) == (ERROR, CKR_USER_NOT_LOGGED_IN)
    other = fleet.hsms[1]
    with fleet.connect(host, other) as link:
        assert link.ask(RENEW, record, ticket=ticket)[0] == REPLY


def test_an_expelled_hsm(fleet, host, hsm):
    """It keeps the old domain keys: what it seals, signs and knows of sessions is worth nothing any more."""
    party = Party("x", party=HSM)
    fleet.execute("admit HSM", party.claim(fleet.state.domain))
    opened = fleet.secrets(party)
    key_id, key = fleet.active_key(opened)
    domain = fleet.domain
    session = fleet.negotiate(host, hsm)
    link = fleet.connect(host, hsm, session)
    # While it was a member it stood between them: a connection in the host's name.
    forge = sealer(key, key_id, domain)
    now = int(time.time())
    sk = os.urandom(32)
    forged = session._replace(sk=sk, ekt=forge(Terms(1, sk, host.host, host.process, hsm.id, now, now + 600)))
    between = fleet.connect(host, hsm, forged)
    assert link.ping() and between.ping()

    fleet.execute("expel HSM", party.id, None)
    assert between.stream.ends() and link.stream.ends()
    for old in session, forged:
        for each in fleet.hsms:
            with pytest.raises(Refusal) as found:
                fleet.connect(host, each, old)
            assert found.value.code == EXPIRED
    # Nor does a host take it for a member.
    message1, kept = host.begin(fleet.domain, hsm.id)
    reply = Hsm(party.signing, hsm.id, forge).answer(fleet.domain, message1, fleet.host_key(host), now)
    with pytest.raises(Refused, match="another signed it"):
        host.finish(fleet.domain, kept, reply, fleet.key_of(hsm.id))


# A point of the curve: its base point.
P384_POINT = (
    "3076301006072a8648ce3d020106052b8104002203620004"
    "aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7"
    "3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f"
)
