"""Sessions of the peer with `conclaved`, in a domain that the peer made: the peer is its first member and its host."""

import json
import os
import pathlib
import socket
import struct
import subprocess

import pytest
from peer.encoding import decode, encode
from peer.identity import HOST, Party
from peer.keys import new_key, spki
from peer.member import Member
from peer.session import (
    ADMIN, BRING, CONNECT, MESSAGE_MAX, NEGOTIATE, REFUSED, REPLIES, STATUS, Host, Session, clear, framed, read_clear,
)

REFUSED_IT, NOT_MEMBER, BEHIND, TOO_LARGE, EXPIRED = 1, 3, 4, 5, 6
CALL, PING, DESCRIBE, BEGIN_RECOVERY = 0, 17, 18, 16
DONE, REPLY, RECOVERING, DESCRIPTION = 0, 5, 3, 10


class Stream:
    """A connection with an HSM."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(str(path))

    def send(self, wire):
        self.socket.sendall(wire)

    def frame(self):
        """The next frame, or None where the HSM closed."""
        try:
            head = self._exactly(4)
            return head and self._exactly(struct.unpack(">I", head)[0])
        except ConnectionResetError:
            return None

    def _exactly(self, count):
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                return None
            data += part
        return data

    def ask(self, *fields):
        """The fields of the reply to a clear message."""
        self.send(clear(*fields))
        return read_clear(self.frame(), REPLIES)

    def closed(self):
        return self.frame() is None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


def request(domain, *operation):
    return encode([domain.version, domain.hash, 0, 0, b"", list(operation)])


class Hsm:
    """A `conclaved` that is a member of the peer's domain."""

    def __init__(self, directory, member, name):
        module = pathlib.Path(os.environ.get("CONCLAVE_MODULE", "target/release/libconclave.so")).resolve()
        self.path, self.admin = directory / f"{name}.sock", directory / f"{name}.admin"
        fingerprint = member.state.hash().hex()
        command = [module.parent / "conclaved", "--name", name, "--listen", f"unix:{self.path}", "--admin", self.admin,
                   "--domain-fingerprint", fingerprint, "--json"]
        with open(directory / f"{name}.log", "wb") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        self.id = bytes.fromhex(json.loads(self.process.stdout.readline())["id"])

    def bring(self, member):
        with Stream(self.path) as stream:
            _, hsm, _, _, version, *_ = stream.ask(STATUS)
            assert hsm == self.id
            return stream.ask(BRING, *member.history_after(version))

    def claim(self, member):
        """Over the operators' socket, on which requests and replies are in clear."""
        with Stream(self.admin) as stream:
            assert stream.ask(ADMIN) == [ADMIN]
            stream.send(framed(request(member.domain, CALL, [BEGIN_RECOVERY, b"", [19456, 2, 1]])))
            *_, (status, (kind, claim, _)) = decode(stream.frame())
            assert (status, kind) == (REPLY, RECOVERING)
            return claim

    def signing(self, member):
        return next(each.signing for each in member.state.members if each.id == self.id)


class Fleet:
    def __init__(self, directory):
        self.people = [Party(name, ["officer", "operator"]) for name in ("Anna", "Ben", "Cleo")]
        self.member = Member("fleet", self.people)
        self.hsms = [Hsm(directory, self.member, name) for name in "ab"]
        for hsm in self.hsms:
            # Known, but not a member; then one.
            status = hsm.bring(self.member)
            assert status[4:] == [self.member.state.version, self.member.state.hash(), False]
            with Stream(hsm.path) as stream:
                assert stream.ask(CONNECT, b"", bytes(120)) == [REFUSED, NOT_MEMBER]
            self.member.execute("admit HSM", hsm.claim(self.member))
            assert hsm.bring(self.member)[6] is True
        self.host = self.admit("web")

    def admit(self, name):
        """A new host of the domain, which all know."""
        party = Party(name, party=HOST)
        self.member.execute("admit host", party.claim(self.member.state.domain))
        self.bring()
        return Host(party.signing, party.id)

    def bring(self):
        for hsm in self.hsms:
            hsm.bring(self.member)

    def negotiate(self, host, hsm, suite=1):
        domain = self.member.domain
        message1, begun = host.begin(domain, hsm.id, suite)
        with Stream(hsm.path) as stream:
            kind, message2 = stream.ask(NEGOTIATE, message1)
            assert kind == NEGOTIATE
        return host.finish(domain, begun, message2, hsm.signing(self.member))

    def connect(self, host, session, hsm, secret=None):
        """A stream and its link, after the greeting."""
        stream, qc = Stream(hsm.path), new_key()
        stream.send(clear(CONNECT, session.ekt, spki(qc)))
        reply = stream.frame()
        fields = read_clear(reply, REPLIES)
        if fields[0] == REFUSED:
            return fields[1]
        link = host.connected(session, self.member.domain, hsm.id, qc, reply)
        stream.send(link.seal(secret or host.secret))
        greeting = stream.frame()
        if greeting is None:
            return None
        assert link.open(greeting) == (b"\0", True)
        return stream, link

    def ask(self, connection, *operation):
        stream, link = connection
        link.request += 1
        stream.send(link.seal(request(self.member.domain, *operation)))
        message, last = b"", False
        while not last:
            frame = stream.frame()
            if frame is None:
                return None
            part, last = link.open(frame)
            message += part
        version, state_hash, _, _, answer = decode(message)
        assert (version, state_hash) == self.member.domain[2:]
        return answer


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    made = Fleet(tmp_path_factory.mktemp("sessions"))
    yield made
    for hsm in made.hsms:
        hsm.process.terminate()
        assert hsm.process.wait(30) == 0


def test_a_session_is_good_at_every_member(fleet):
    one, two = fleet.hsms
    session = fleet.negotiate(fleet.host, one)
    for hsm in (one, two, one):
        connection = fleet.connect(fleet.host, session, hsm)
        assert fleet.ask(connection, PING) == [DONE]
        status, (described, name, version, until) = fleet.ask(connection, DESCRIBE)
        assert (status, described, version) == (DESCRIPTION, hsm.id, fleet.member.state.version)
        assert (name, until) == ("a" if hsm is one else "b", session.valid_until)
        connection[0].socket.close()


def test_a_session_that_the_peer_issued(fleet):
    """As a member that conclaved has never spoken with."""
    terms, ekt = fleet.member.issue(fleet.host.host, fleet.host.process)
    session = Session(1, terms.sk, ekt, terms.host, terms.issuer, terms.valid_until)
    connection = fleet.connect(fleet.host, session, fleet.hsms[0])
    assert fleet.ask(connection, PING) == [DONE]
    # Not without the process's secret, and not of a stranger or longer than the domain allows.
    assert fleet.connect(fleet.host, session, fleet.hsms[0], os.urandom(32)) is None
    for changes in ({"host": os.urandom(16)}, {"lifetime": 3601}, {"suite": 2}):
        terms, ekt = fleet.member.issue(**{"host": fleet.host.host, "process": fleet.host.process, **changes})
        session = Session(1, terms.sk, ekt, terms.host, terms.issuer, terms.valid_until)
        assert fleet.connect(fleet.host, session, fleet.hsms[0]) == (REFUSED_IT if "host" in changes else EXPIRED)


def test_message_1_counts_once_and_for_one(fleet):
    one, two = fleet.hsms
    domain = fleet.member.domain
    stranger = Host(new_key(), fleet.host.host)
    message1, _ = fleet.host.begin(domain, one.id)
    with Stream(one.path) as stream:
        assert stream.ask(NEGOTIATE, message1)[0] == NEGOTIATE

    def refused(hsm, message):
        with Stream(hsm.path) as stream:
            answer = stream.ask(NEGOTIATE, message)
            assert answer[1] == BEHIND or stream.closed()
            return answer

    assert refused(one, message1) == [REFUSED, REFUSED_IT]
    changed = bytearray(fleet.host.begin(domain, one.id)[0])
    changed[len(changed) // 2] ^= 1
    for hsm, message in [
        (two, fleet.host.begin(domain, one.id)[0]),
        (one, bytes(changed)),
        (one, stranger.begin(domain, one.id)[0]),
        (one, fleet.host.begin(domain._replace(id=bytes(16)), one.id)[0]),
        (one, fleet.host.begin(domain, one.id, suite=2)[0]),
        (one, fleet.host.begin(domain, one.id, now=1_000_000_000)[0]),
        (one, fleet.host.begin(domain, one.id, now=4_000_000_000)[0]),
        (one, b""),
    ]:
        assert refused(hsm, message) == [REFUSED, REFUSED_IT]
    newer = domain._replace(version=domain.version + 1)
    assert refused(one, fleet.host.begin(newer, one.id)[0]) == [REFUSED, BEHIND]


def test_clear_messages_that_are_none(fleet):
    hsm = fleet.hsms[0]
    for wire in (framed(b""), framed(b"\x81\x18\x00"), framed(b"\x81\x09"), framed(b"\x81\x00\x00"),
                 framed(encode([CONNECT, b"", bytes(119)])), clear(ADMIN), clear(CONNECT, b"", bytes(120))):
        with Stream(hsm.path) as stream:
            stream.send(wire)
            assert read_clear(stream.frame(), REPLIES)[0] == REFUSED and stream.closed()
    with Stream(hsm.path) as stream:
        stream.send(struct.pack(">I", 16 << 20) + b"\x82\x02")
        assert read_clear(stream.frame(), REPLIES) == [REFUSED, TOO_LARGE] and stream.closed()


def test_frames_that_are_wrong_close_the_connection(fleet):
    session = fleet.negotiate(fleet.host, fleet.hsms[0])

    def spoiled(spoil):
        """Whether a ping spoiled so is answered by the end of the connection."""
        connection = fleet.connect(fleet.host, session, fleet.hsms[1])
        stream, link = connection
        assert fleet.ask(connection, PING) == [DONE]
        link.request += 1
        stream.send(spoil(link, request(fleet.member.domain, PING)))
        return stream.closed()

    def flipped(at):
        def spoil(link, message):
            wire = bytearray(link.seal(message))
            wire[at] ^= 1
            return bytes(wire)
        return spoil

    def twice(link, message):
        first = link.seal(message)
        return framed(first[4:]) + first

    def other_request(link, message):
        link.request += 1
        return link.seal(message)

    def skipped(link, message):
        link.seal(message)
        return link.seal(message)

    def cut(link, message):
        return framed(link.seal(message)[4:-1])

    def reflected(link, message):
        """What the HSM would have sent."""
        link._sending, link._receiving = link._receiving, link._sending
        return link.seal(message)

    def spliced(link, message):
        another = fleet.connect(fleet.host, session, fleet.hsms[1])[1]
        another.request = link.request
        another._sent = link._sent
        return another.seal(message)

    def too_long(link, message):
        return struct.pack(">I", 1 + (64 << 10) + 17) + bytes(100)

    for spoil in (flipped(4), flipped(5), flipped(-1), cut, other_request, skipped, reflected, spliced, too_long):
        assert spoiled(spoil), spoil
    # The first is answered, the second is not taken.
    connection = fleet.connect(fleet.host, session, fleet.hsms[0])
    stream, link = connection
    link.request += 1
    stream.send(twice(link, request(fleet.member.domain, PING)))
    assert link.open(stream.frame())[1] and stream.closed()
    assert MESSAGE_MAX == 64 << 20


def test_rotation_and_expulsion_end_sessions(fleet):
    one, two = fleet.hsms
    guest = fleet.admit("guest")
    session = fleet.negotiate(guest, one)
    open_one, open_two = (fleet.connect(guest, session, hsm) for hsm in (one, two))
    fleet.member.execute("rotate domain key", None)
    one.bring(fleet.member)
    assert fleet.connect(guest, session, one) == EXPIRED
    assert open_one[0].closed()
    two.bring(fleet.member)
    assert open_two[0].closed() and fleet.connect(guest, session, two) == EXPIRED
    session = fleet.negotiate(guest, two)
    connections = [fleet.connect(guest, session, hsm) for hsm in (one, two)]
    assert all(fleet.ask(each, PING) == [DONE] for each in connections)
    fleet.member.execute("expel host", guest.host)
    fleet.bring()
    assert all(stream.closed() for stream, _ in connections)
    assert fleet.connect(guest, session, one) == REFUSED_IT
    message1, _ = guest.begin(fleet.member.domain, one.id)
    with Stream(one.path) as stream:
        assert stream.ask(NEGOTIATE, message1) == [REFUSED, REFUSED_IT]
    # The others go on.
    assert fleet.ask(fleet.connect(fleet.host, fleet.negotiate(fleet.host, one), two), PING) == [DONE]


def test_suite_2(fleet):
    """What was negotiated without ML-KEM is over where the domain allows it, and nothing lower is begun."""
    one, two = fleet.hsms
    before = fleet.negotiate(fleet.host, one)
    fleet.member.execute("allow suite", 2, True)
    fleet.bring()
    assert fleet.connect(fleet.host, before, two) == EXPIRED
    with Stream(one.path) as stream:
        message1, _ = fleet.host.begin(fleet.member.domain, one.id)
        assert stream.ask(NEGOTIATE, message1) == [REFUSED, REFUSED_IT]
    session = fleet.negotiate(fleet.host, one, suite=2)
    assert fleet.ask(fleet.connect(fleet.host, session, two), PING) == [DONE]


def test_a_host_can_be_of_another_domain(fleet):
    """An HSM takes one domain only, by its fingerprint."""
    other = Member("other", fleet.people)
    hsm = fleet.hsms[0]
    with Stream(hsm.path) as stream:
        answer = stream.ask(BRING, *other.history_after(0))
        assert answer[0] == REFUSED
    with Stream(hsm.path) as stream:
        kind, _, _, domain, version, *_ = stream.ask(STATUS)
        assert (kind, domain, version) == (STATUS, fleet.member.state.domain, fleet.member.state.version)
