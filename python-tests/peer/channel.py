"""Connections to an HSM of a fleet, as hosts and operators have them."""

import socket
import struct

from .encoding import decode, encode
from .keys import new_key, spki
from .session import CONNECT, NEGOTIATE, ADMIN, REFUSED, REPLIES, STATUS, clear, framed, read_clear

DONE, ERROR, BEHIND, STALE, CALLBACK, REPLY = range(6)
CALL, BRING, RENEW, PING = 0, 14, 16, 17


class Closed(Exception):
    """The other end closed the connection."""


class Refusal(Exception):
    """What an HSM says of what it does not accept: a number."""

    def __init__(self, code):
        self.code = code
        super().__init__(f"refused: {code}")


class Stream:
    """A connection to `unix:PATH` or `tcp:HOST:PORT`. It counts what comes in."""

    def __init__(self, address, timeout=10):
        kind, _, place = address.partition(":")
        if kind == "tcp":
            host, _, port = place.rpartition(":")
            self.socket = socket.create_connection((host, int(port)), timeout)
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout)
            self.socket.connect(place)
        self.received = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def write(self, data):
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            raise Closed from None

    def _exactly(self, count):
        data = b""
        while len(data) < count:
            try:
                part = self.socket.recv(count - len(data))
            except ConnectionResetError:
                part = b""
            if not part:
                raise Closed
            data += part
            self.received += len(part)
        return data

    def read(self):
        """A frame, without its length."""
        return self._exactly(struct.unpack(">I", self._exactly(4))[0])

    def ask(self, wire):
        self.write(wire)
        return self.read()

    def clear(self, *fields):
        """The fields of the answer to a clear message."""
        reply = read_clear(self.ask(clear(*fields)), REPLIES)
        if reply[0] == REFUSED:
            raise Refusal(reply[1])
        return reply

    def ends(self):
        """That the other end closes, and says nothing before."""
        before = self.received
        try:
            self._exactly(1)
        except Closed:
            return self.received == before
        return False


def request(ask, version=0, state=bytes(48), stamp=0, heard=0, ticket=b""):
    return encode([version, state, stamp, heard, ticket, ask])


class Admin:
    """An operators' connection."""

    def __init__(self, path):
        self.stream = Stream(f"unix:{path}")
        self.stream.clear(ADMIN)

    def call(self, *command):
        """The fields of the reply to a command."""
        *_, answer = decode(self.stream.ask(framed(request([CALL, list(command)]))))
        assert answer[0] == REPLY, answer
        return answer[1]


class Hosted:
    """An authenticated connection of a host process. `process` is a session.Host."""

    def __init__(self, address, process, session, domain, hsm, greet=True):
        self.stream, self.domain = Stream(address), domain
        qc = new_key()
        self.stream.write(clear(CONNECT, session.ekt, spki(qc)))
        reply = self.stream.read()
        fields = read_clear(reply, {CONNECT: REPLIES[CONNECT], REFUSED: REPLIES[REFUSED]})
        if fields[0] == REFUSED:
            raise Refusal(fields[1])
        self.link = process.connected(session, domain, hsm, qc, reply)
        self.hello = self.link.seal(process.secret)
        self.ticket = b""
        if greet:
            self.stream.write(self.hello)
            assert self._message() == b"\x00"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.socket.close()

    def _message(self):
        message, last = b"", False
        while not last:
            part, last = self.link.open(self.stream.read())
            message += part
        return message

    def sealed(self, *ask, padding=0, **header):
        """The frames of the next request."""
        self.link.request += 1
        header = {"version": self.domain.version, "state": self.domain.hash, "ticket": self.ticket, **header}
        return self.link.seal(request(list(ask), **header) + bytes(padding))

    def answer(self):
        return decode(self._message())[-1]

    def ask(self, *ask, **header):
        """The answer to a request."""
        self.stream.write(self.sealed(*ask, **header))
        return self.answer()

    def call(self, *command):
        answer = self.ask(CALL, list(command))
        assert answer[0] == REPLY, answer
        return answer[1]

    def ping(self):
        return self.ask(PING) == [DONE]


def status(address):
    """Id, kid, domain, version, hash, whether a member."""
    with Stream(address) as stream:
        return stream.clear(STATUS)[1:]


def negotiate(address, message1):
    """Message 2."""
    with Stream(address) as stream:
        return stream.clear(NEGOTIATE, message1)[1]
