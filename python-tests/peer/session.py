"""Sessions between a host and the HSMs of a fleet, from either end: clear messages, negotiation, frames."""

import hmac
import os
import struct
import time
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM1024PrivateKey, MLKEM1024PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from . import cose
from .encoding import (
    Refused, boolean, bstr, decode, encode, listed, octets, one_of, optional, record, require, row, uint,
)
from .keys import agree, hkdf, key_id, new_key, public, sha256, sha384, spki, verify

REQUEST, REPLY = ("application/vnd.conclave.session." + name for name in ("request", "reply"))
SEALED = "application/vnd.conclave.sealed.session"
P384, P384_MLKEM = 1, 2
CLEAR_MAX, BRING_MAX, PLAIN_MAX, MESSAGE_MAX = 64 << 10, 16 << 20, 64 << 10, 64 << 20
SKEW = 60

identifier, digest = octets(16), octets(48)
_SUITE, _encapsulated = one_of(P384, P384_MLKEM), optional(octets(1568))

# Clear messages: the kind, and what follows it.
STATUS, BRING, NEGOTIATE, CONNECT, ADMIN, REFUSED = 0, 1, 2, 3, 4, 255
REQUESTS = {
    STATUS: [], BRING: [bstr, bstr, uint, listed(bstr)], NEGOTIATE: [bstr], CONNECT: [bstr, octets(120)], ADMIN: [],
}
REPLIES = {
    STATUS: [identifier, octets(32), optional(identifier), uint, optional(digest), boolean],
    NEGOTIATE: [bstr], CONNECT: [octets(120), uint, digest], ADMIN: [], REFUSED: [one_of(1, 2, 3, 4, 5, 6)],
}


def framed(data):
    return struct.pack(">I", len(data)) + data


def unframed(wire):
    """What follows each length."""
    frames = []
    while wire:
        require(len(wire) >= 4, "truncated")
        (length,) = struct.unpack(">I", wire[:4])
        require(len(wire) >= 4 + length, "truncated")
        frames.append(wire[4:4 + length])
        wire = wire[4 + length:]
    return frames


def clear(*fields):
    return framed(encode(list(fields)))


def read_clear(data, kinds):
    """The fields of a clear message of one of `kinds`, the kind first."""
    fields = decode(data)
    require(type(fields) is list and fields and type(fields[0]) is int and fields[0] in kinds, "an unknown message")
    require(len(data) <= (BRING_MAX if kinds is REQUESTS and fields[0] == BRING else CLEAR_MAX), "too large")
    return row(uint, *kinds[fields[0]])(fields)


class Request(NamedTuple):
    """Message 1."""

    suite: int
    host: bytes
    hsm: bytes
    process: bytes
    nonce: bytes
    lifetime: int
    not_after: int
    version: int
    q1: bytes
    ek: bytes | None


class Reply(NamedTuple):
    """Message 2."""

    request: bytes
    hsm: bytes
    host: bytes
    version: int
    state: bytes
    valid_from: int
    valid_until: int
    q2: bytes
    ct: bytes | None
    esk: bytes
    ekt: bytes


class Terms(NamedTuple):
    """What an EKT seals."""

    suite: int
    sk: bytes
    host: bytes
    process: bytes
    issuer: bytes
    valid_from: int
    valid_until: int


class Domain(NamedTuple):
    """What both sides have of the domain's state."""

    id: bytes
    region: str
    version: int
    hash: bytes


_request = record(
    Request, _SUITE, identifier, identifier, octets(32), identifier, uint, uint, uint, public, _encapsulated,
)
_reply = record(
    Reply, digest, identifier, identifier, uint, digest, uint, uint, public, _encapsulated, octets(48), bstr,
)
read_terms = record(Terms, _SUITE, octets(32), identifier, octets(32), identifier, uint, uint)


def _open(data, content_type, signer, domain, shape):
    kid, payload, protected, signature = cose.signed1(data, content_type)
    require(kid == sha256(signer), "another signed it")
    verify(signer, cose.to_sign1(protected, domain.id, payload), signature)
    return decode(payload, shape)


def open_request(data, host_key, domain):
    request = _open(data, REQUEST, host_key, domain, _request)
    require((request.ek is not None) == (request.suite == P384_MLKEM), "the suite has other keys")
    return request


def open_reply(data, hsm_key, domain):
    return _open(data, REPLY, hsm_key, domain, _reply)


def sign_request(key, domain, request):
    return cose.sign1(key, REQUEST, domain.id, encode(request))


def sign_reply(key, domain, reply):
    return cose.sign1(key, REPLY, domain.id, encode(reply))


def transcript(request, reply, message1, kids, domain):
    """`kids` are those of QHOS and of QHSK."""
    parties = [request.suite, request.host, request.hsm, *kids, domain.id, domain.region]
    return sha384(encode([*parties, sha384(message1), request.q1, reply.q2, reply.version, reply.state, reply.ct]))


def negotiation_key(agreed, suite, transcript_):
    return hkdf(agreed, 44, ["conclave/1", "session", suite, transcript_])


def encrypt_sk(nk, sk, ekt):
    return AESGCM(nk[:32]).encrypt(nk[32:], sk, sha384(ekt))


def decrypt_sk(nk, esk, ekt):
    try:
        return AESGCM(nk[:32]).decrypt(nk[32:], esk, sha384(ekt))
    except InvalidTag:
        raise Refused("the session key does not decrypt") from None


def _sealing(domain_key, domain, region, object_id, salt):
    """Key, IV, commitment and AAD of an EKT; `region` is that of the domain key."""
    keys = hkdf(domain_key, 76, ["session", domain], salt)
    return keys[:32], keys[32:44], keys[44:], encode([key_id("domain key", domain_key), region, object_id, 1])


def seal_ekt(domain_key, domain, region, terms, object_id=None, salt=None):
    object_id, salt = object_id or os.urandom(16), salt or os.urandom(32)
    key, iv, commitment, aad = _sealing(domain_key, domain, region, object_id, salt)
    protected = encode({
        cose.ALG: cose.A256GCM, cose.CONTENT_TYPE: SEALED, cose.KID: key_id("domain key", domain_key),
        cose.SALT: salt, cose.COMMITMENT: commitment,
    })
    ciphertext = AESGCM(key).encrypt(iv, encode(terms), encode(["Encrypt0", protected, aad]))
    return encode([object_id, b"\xd0\x83" + b"".join(encode(each) for each in [protected, {}, ciphertext])])


def open_ekt(domain_key, domain, region, ekt):
    object_id, sealed = decode(ekt, row(identifier, bstr))
    header, protected, (ciphertext,) = cose.message(sealed, cose.ENCRYPT0, {cose.KID, cose.SALT, cose.COMMITMENT})
    require(header[cose.ALG] == cose.A256GCM and header[cose.CONTENT_TYPE] == SEALED, "not an EKT")
    require(header[cose.KID] == key_id("domain key", domain_key), "another domain key")
    key, iv, commitment, aad = _sealing(domain_key, domain, region, object_id, octets(32)(header[cose.SALT]))
    require(hmac.compare_digest(commitment, octets(32)(header[cose.COMMITMENT])), "another key was committed to")
    try:
        return decode(AESGCM(key).decrypt(iv, ciphertext, encode(["Encrypt0", protected, aad])), read_terms)
    except InvalidTag:
        raise Refused("an EKT does not verify") from None


def connection_transcript(ekt, qc, qs, hsm, host, domain):
    return sha384(encode([sha384(ekt), qc, qs, hsm, host, domain.id, domain.version, domain.hash]))


def connection_keys(agreed, sk, suite, transcript_):
    keys = hkdf(agreed, 64, ["conclave/1", "connection", suite, transcript_], sk)
    return keys[:32], keys[32:]


class Link:
    """One end of a connection. `keys` are those of host→HSM and HSM→host."""

    def __init__(self, keys, is_host):
        self._sending, self._receiving = (AESGCM(key) for key in (keys if is_host else keys[::-1]))
        self._sent = self._received = self.request = 0

    def _aad(self, last):
        return encode([self.request, last])

    def seal(self, message):
        """The frames of a message, each behind its length."""
        parts = [message[at:at + PLAIN_MAX] for at in range(0, len(message), PLAIN_MAX)] or [b""]
        wire = b""
        for at, part in enumerate(parts):
            last = at + 1 == len(parts)
            wire += framed(bytes([last]) + self._sending.encrypt(self._sent.to_bytes(12, "big"), part, self._aad(last)))
            self._sent += 1
        return wire

    def open(self, frame):
        """The plaintext of a frame, and whether it is the last of its message."""
        require(len(frame) >= 17 and frame[0] < 2, "not a frame")
        last = bool(frame[0])
        length = len(frame) - 17
        require(length <= PLAIN_MAX and (last or length == PLAIN_MAX), "a frame of a wrong length")
        try:
            plain = self._receiving.decrypt(self._received.to_bytes(12, "big"), frame[1:], self._aad(last))
        except InvalidTag:
            raise Refused("a frame does not verify") from None
        self._received += 1
        return plain, last

    def open_message(self, frames):
        """The message that these frames are."""
        opened = [self.open(frame) for frame in frames]
        require([last for _, last in opened] == [False] * (len(opened) - 1) + [True], "not one message")
        return b"".join(plain for plain, _ in opened)


class Session(NamedTuple):
    """What a host has after a negotiation."""

    suite: int
    sk: bytes
    ekt: bytes
    host: bytes
    issuer: bytes
    valid_until: int


class Host:
    """A host process: its key, its id in the domain, its secret."""

    def __init__(self, key, host, secret=None):
        self.key, self.host = key, host
        self.secret = secret or os.urandom(32)

    @property
    def process(self):
        return sha256(self.secret)

    def begin(self, domain, hsm, suite=P384, lifetime=3600, now=None):
        """(message 1, what is kept until the answer)."""
        q1 = new_key()
        decapsulation = MLKEM1024PrivateKey.generate() if suite == P384_MLKEM else None
        ek = decapsulation and decapsulation.public_key().public_bytes_raw()
        not_after = (now or int(time.time())) + 60
        request = Request(suite, self.host, hsm, self.process, os.urandom(16), lifetime, not_after, domain.version,
                          spki(q1), ek)
        message1 = sign_request(self.key, domain, request)
        return message1, (q1, decapsulation, request, message1)

    def finish(self, domain, begun, message2, hsm_key, now=None):
        q1, decapsulation, request, message1 = begun
        reply = open_reply(message2, hsm_key, domain)
        now = now or int(time.time())
        require(reply.request == sha384(message1), "it answers another message")
        require((reply.hsm, reply.host) == (request.hsm, request.host), "it is between others")
        require(reply.version >= domain.version, "the HSM is behind")
        require(reply.version > domain.version or reply.state == domain.hash, "another state of one version")
        require(reply.valid_from <= now + SKEW and now < reply.valid_until, "it is not valid now")
        require(0 < reply.valid_until - reply.valid_from <= request.lifetime, "it is longer than was asked for")
        require((reply.ct is not None) == (request.suite == P384_MLKEM), "it is of another suite")
        agreed = agree(q1, reply.q2) + (decapsulation.decapsulate(reply.ct) if decapsulation else b"")
        kids = [sha256(spki(self.key)), sha256(hsm_key)]
        nk = negotiation_key(agreed, request.suite, transcript(request, reply, message1, kids, domain))
        sk = decrypt_sk(nk, reply.esk, reply.ekt)
        return Session(request.suite, sk, reply.ekt, self.host, reply.hsm, reply.valid_until)

    def connected(self, session, domain, hsm, qc, reply):
        """The link after a `connect` reply. `qc` is the host's ephemeral key."""
        _, qs, version, state = read_clear(reply, {CONNECT: REPLIES[CONNECT]})
        require(version != domain.version or state == domain.hash, "another state of one version")
        theirs = domain._replace(version=version, hash=state)
        made = connection_transcript(session.ekt, spki(qc), public(qs), hsm, self.host, theirs)
        return Link(connection_keys(agree(qc, qs), session.sk, session.suite, made), is_host=True)


class Hsm:
    """The other end of a negotiation. It seals EKTs with `seal(terms)`, which gives bytes."""

    def __init__(self, key, hsm, seal):
        self.key, self.hsm, self.seal = key, hsm, seal

    def answer(self, domain, message1, host_key, now):
        request = open_request(message1, host_key, domain)
        require(request.hsm == self.hsm, "it is for another HSM")
        require(now - SKEW <= request.not_after <= now + 60 + SKEW, "it is not the time for it")
        require(request.lifetime > 0 and request.version <= domain.version, "the host knows more")
        q2, sk = new_key(), os.urandom(32)
        agreed, ct = agree(q2, request.q1), None
        if request.ek is not None:
            secret, ct = MLKEM1024PublicKey.from_public_bytes(request.ek).encapsulate()
            agreed += secret
        until = now + min(request.lifetime, 3600)
        ekt = self.seal(Terms(request.suite, sk, request.host, request.process, self.hsm, now, until))
        reply = Reply(sha384(message1), self.hsm, request.host, domain.version, domain.hash, now, until, spki(q2), ct,
                      bytes(48), ekt)
        kids = [sha256(host_key), sha256(spki(self.key))]
        nk = negotiation_key(agreed, request.suite, transcript(request, reply, message1, kids, domain))
        return sign_reply(self.key, domain, reply._replace(esk=encrypt_sk(nk, sk, ekt)))
