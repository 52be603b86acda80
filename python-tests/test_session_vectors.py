"""The peer's reading of sessions, checked against tests/vectors/session, and both its ends with each other."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM1024PrivateKey
from peer.encoding import Refused, decode, encode
from peer.keys import agree, new_key, private_key, sha256, sha384, spki
from peer.session import (
    BRING, CONNECT, NEGOTIATE, P384_MLKEM, REPLIES, REQUESTS, Domain, Host, Hsm, Link, Reply, Request, clear,
    connection_keys, connection_transcript, decrypt_sk, encrypt_sk, framed, negotiation_key, open_ekt, open_reply,
    open_request, read_clear, read_terms, seal_ekt, sign_reply, sign_request, transcript, unframed,
)

DIRECTORY = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "session"
NOW = 1_800_000_000


def load(name):
    return json.loads((DIRECTORY / name).read_text())


def unhex(value):
    """With bytes for what is hex; the names of a Region and of an end are not."""
    if isinstance(value, dict):
        return {name: each if name in ("region", "from", "of") else unhex(each) for name, each in value.items()}
    if isinstance(value, list):
        return [unhex(each) for each in value]
    return bytes.fromhex(value) if isinstance(value, str) else value


@pytest.mark.parametrize("vector", [unhex(each) for each in load("clear.json")])
def test_clear_messages(vector):
    kinds = REQUESTS if vector["of"] == "host" else REPLIES
    (frame,) = unframed(vector["wire"])
    assert read_clear(frame, kinds) == vector["fields"]
    assert clear(*vector["fields"]) == vector["wire"]
    for other in (frame[:-1], frame + b"\0", b"\x9f" + frame[1:] + b"\xff", b""):
        with pytest.raises(Refused):
            read_clear(other, kinds)
    if vector["fields"][0] == BRING:
        with pytest.raises(Refused):
            read_clear(frame, REPLIES)


@pytest.mark.parametrize("vector", load("session.json"), ids=["suite-1", "suite-2"])
def test_sessions(vector):
    vector = unhex(vector)
    suite, now = vector["suite"], vector["now"]
    domain = Domain(vector["domain"], vector["region"], vector["version"], vector["state_hash"])
    host_key, hsm_key = private_key(vector["host_private"]), private_key(vector["hsm_private"])
    one, two, ekt = vector["message1"], vector["message2"], vector["ekt"]

    # Message 1, read and made again.
    request = open_request(one["message"], spki(host_key), domain)
    assert list(request) == one["fields"] and encode(request) == one["payload"]
    assert sha384(one["message"]) == one["hash"]
    assert sign_request(host_key, domain, Request(*one["fields"])) == one["message"]
    assert (request.suite, request.host, request.hsm) == (suite, vector["host"], vector["hsm"])
    assert request.process == sha256(vector["process_secret"]) and request.version == domain.version
    q1 = private_key(vector["q1_private"])
    decapsulation = vector["mlkem_seed"] and MLKEM1024PrivateKey.from_seed_bytes(vector["mlkem_seed"])
    assert request.q1 == spki(q1)
    assert request.ek == (decapsulation and decapsulation.public_key().public_bytes_raw())

    # Message 2, as the host takes it.
    reply = open_reply(two["message"], spki(hsm_key), domain)
    assert list(reply) == two["fields"] and encode(reply) == two["payload"]
    assert sign_reply(hsm_key, domain, Reply(*two["fields"])) == two["message"]
    host = Host(host_key, vector["host"], vector["process_secret"])
    begun = (q1, decapsulation, request, one["message"])
    session = host.finish(domain, begun, two["message"], spki(hsm_key), now)
    assert (session.sk, session.ekt, session.suite) == (vector["sk"], ekt["session"], suite)
    assert sha384(session.ekt) == ekt["session_hash"]

    # The same from the HSM's side.
    q2 = private_key(vector["q2_private"])
    assert reply.q2 == spki(q2)
    agreed = agree(q2, request.q1) + (vector["mlkem_shared"] or b"")
    kids = [sha256(spki(host_key)), sha256(spki(hsm_key))]
    made = transcript(request, reply, one["message"], kids, domain)
    nk = negotiation_key(agreed, suite, made)
    assert (made, nk) == (vector["transcript"], vector["nk"])
    assert encrypt_sk(nk, session.sk, reply.ekt) == reply.esk
    with pytest.raises(Refused):
        decrypt_sk(nk, reply.esk, reply.ekt[1:])

    # An EKT.
    terms = decode(ekt["plaintext"], read_terms)
    place = ekt["domain_key"], domain.id, domain.region
    assert seal_ekt(*place, terms, ekt["object"], ekt["salt"]) == ekt["ekt"]
    assert open_ekt(*place, ekt["ekt"]) == terms

    check_connection(vector["connection"], domain, host, session)


def check_connection(vector, domain, host, session):
    hsm, qc, qs = vector["hsm"], private_key(vector["qc_private"]), private_key(vector["qs_private"])
    assert clear(CONNECT, session.ekt, spki(qc)) == vector["request"]
    assert clear(CONNECT, spki(qs), domain.version, domain.hash) == vector["reply"]
    made = connection_transcript(session.ekt, spki(qc), spki(qs), hsm, host.host, domain)
    keys = connection_keys(agree(qs, spki(qc)), session.sk, session.suite, made)
    assert (made, *keys) == (vector["transcript"], vector["to_hsm"], vector["to_host"])
    (reply,) = unframed(vector["reply"])
    links = {"host": host.connected(session, domain, hsm, qc, reply), "hsm": Link(keys, is_host=False)}
    for crossing in vector["frames"]:
        sender = crossing["from"]
        receiver = {"host": "hsm", "hsm": "host"}[sender]
        for link in links.values():
            link.request = crossing["request"]
        assert links[sender].seal(crossing["message"]) == crossing["wire"]
        assert links[receiver].open_message(unframed(crossing["wire"])) == crossing["message"]


def test_long_messages():
    vector = unhex(load("frames.json"))
    keys = vector["keys"][:32], vector["keys"][32:]
    host, hsm = Link(keys, is_host=True), Link(keys, is_host=False)
    host.request = hsm.request = vector["request"]
    for each in vector["messages"]:
        message = bytes(n % 251 for n in range(each["len"]))
        frames = unframed(host.seal(message))
        assert [[len(frame), sha384(frame)] for frame in frames] == each["frames"]
        assert hsm.open_message(frames) == message


@pytest.mark.parametrize("vector", load("session.json"), ids=["suite-1", "suite-2"])
def test_changed_messages_are_refused(vector):
    vector = unhex(vector)
    domain = Domain(vector["domain"], vector["region"], vector["version"], vector["state_hash"])
    keys = [spki(private_key(vector[name])) for name in ("host_private", "hsm_private")]
    for name, key, read in zip(("message1", "message2"), keys, (open_request, open_reply)):
        message = vector[name]["message"]
        # Of suite 2 most is the encapsulation; it is signed as the rest is.
        for at in range(0, len(message), 1 if vector["suite"] == 1 else 13):
            changed = bytearray(message)
            changed[at] ^= 1 << at % 8
            with pytest.raises(Refused):
                read(bytes(changed), key, domain)
        for other in (domain._replace(id=bytes(16)),):
            with pytest.raises(Refused):
                read(message, key, other)


@pytest.mark.parametrize("suite", [1, 2])
def test_both_ends_of_the_peer(suite):
    """A negotiation and a connection that nobody wrote down before."""
    domain, domain_key = Domain(bytes(16), "eu-north", 5, bytes(48)), bytes(range(32))
    host_key, hsm_key = new_key(), new_key()
    host = Host(host_key, b"h" * 16)
    issuer = Hsm(hsm_key, b"i" * 16, lambda terms: seal_ekt(domain_key, domain.id, domain.region, terms))
    message1, begun = host.begin(domain, issuer.hsm, suite, now=NOW)
    message2 = issuer.answer(domain, message1, spki(host_key), NOW)
    session = host.finish(domain, begun, message2, spki(hsm_key), NOW)
    terms = open_ekt(domain_key, domain.id, domain.region, session.ekt)
    assert (terms.sk, terms.process, terms.issuer) == (session.sk, host.process, issuer.hsm)
    assert (begun[2].ek is not None) == (suite == P384_MLKEM)
    # For another message 1, by another HSM, in another domain or version.
    other_domain = domain._replace(id=b"d" * 16)
    _, another = host.begin(domain, issuer.hsm, suite, now=NOW)
    newer = domain._replace(version=6)
    for args in [(domain, another, message2, spki(hsm_key)), (domain, begun, message2, spki(host_key)),
                 (other_domain, begun, message2, spki(hsm_key)), (newer, begun, message2, spki(hsm_key)),
                 (domain, begun, message1, spki(hsm_key))]:
        with pytest.raises(Refused):
            host.finish(*args, NOW)
    with pytest.raises(Refused):
        issuer.answer(domain, message1, spki(host_key), NOW + 181)
    assert read_clear(unframed(clear(NEGOTIATE, message1))[0], REQUESTS) == [NEGOTIATE, message1]

    qc, qs = new_key(), new_key()
    made = connection_transcript(session.ekt, spki(qc), spki(qs), b"m" * 16, host.host, domain)
    hsm = Link(connection_keys(agree(qs, spki(qc)), terms.sk, suite, made), is_host=False)
    reply = encode([CONNECT, spki(qs), domain.version, domain.hash])
    link = host.connected(session, domain, b"m" * 16, qc, reply)
    assert hsm.open_message(unframed(link.seal(host.secret))) == host.secret
    frame = link.seal(b"again")[4:]
    for refused in (frame[:-1], framed(frame), hsm.seal(b"back")[4:], b"\0" + frame[1:]):
        with pytest.raises(Refused):
            hsm.open(refused)
    assert hsm.open(frame) == (b"again", True)
    with pytest.raises(Refused):
        hsm.open(frame)
