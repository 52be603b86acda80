"""What the module refuses, one by one, at the C ABI: the return code, the sentence that says which, and
that nothing has changed."""

import contextlib
import os
import re
import time

import cbor2
import pytest
from ceremony import DAY, Ceremony, copy_of_home, edit, elsewhere
from conftest import FLEETS, PIN, SO_PIN
from cryptoki import Error, ck
from peer import cose
from peer.command import CONTENT_TYPE, HOUR, Command
from peer.encoding import decode, encode
from peer.identity import CONTENT_TYPE as IDENTITY
from peer.identity import HOST, HSM, Party
from peer.keys import sign, spki
from peer.token import Token

KEY = b"k" * 16


@pytest.fixture(scope="module")
def token(module):
    """A founded domain in which Anna has a second key."""
    made = Ceremony(module, "refusals").found()
    made.second = Party("Anna", ["officer"])
    made.execute("add operator", made.second.claim(made.state.domain), ["officer"], by=[made.anna, made.ben])
    return made


@pytest.fixture(scope="module")
def unfounded(module):
    return Ceremony(module, "unfounded")


def facts(token):
    """Everything public of the domain."""
    founded = token.state.log_head is not None
    return token.domain.export_token(), token.domain.history() if founded else None, token.domain.describe()


@contextlib.contextmanager
def unchanged(token):
    before = facts(token)
    yield
    assert facts(token) == before
    token.logs_in()


def refuse(token, message, sentence, code="CKR_FUNCTION_REJECTED"):
    """That KMS_Execute refuses the message with this code and sentence, and nothing changes."""
    with unchanged(token), pytest.raises(Error) as caught:
        token.domain.execute(message)
    assert str(caught.value).startswith(f"KMS_Execute: {code} "), caught.value
    assert re.search(sentence, str(caught.value)), caught.value


# Who signed


def test_the_same_operator_twice(token):
    command = token.command("trust key", KEY, True, by=[token.anna])
    tagged = decode(command)
    tagged.value[3] *= 2
    refuse(token, encode(tagged), "signer [0-9a-f]{16} appears twice")


@pytest.mark.parametrize("name", ["trust key", "revoke key"])
def test_one_person_with_two_keys_is_one(token, name):
    last = {"trust key": True, "revoke key": 2}[name]
    lacks = {"trust key": r"officer 1 of 2 \(1 of 2 persons\)",
             "revoke key": r"officer 1 of 1, operator 1 of 1 \(1 of 2 persons\)"}[name]
    refuse(token, token.command(name, KEY, last, by=[token.anna, token.second]), f"quorum not met: {lacks}")


def test_one_person_fills_one_place(token):
    claim = Party("web", party=HOST).claim(token.state.domain)
    refuse(token, token.command("admit host", claim, by=[token.anna]), r"quorum not met: .*\(1 of 2 persons\)")


def test_too_few(token):
    refuse(token, token.command("trust key", KEY, True, by=[token.anna]), r"quorum not met: officer 1 of 2 \(1 of 2")
    refuse(token, token.command("trust key", KEY, True), r"quorum not met: officer 0 of 2 \(0 of 2 persons\)")


def test_neither_alternative_is_met(module):
    three = [[["officer", 3]]]
    rules = [[name, three] for name in ("add operator", "re-key operator", "remove operator", "set rule")]
    alternatives = [[["officer", 2], ["operator", 1]], [["officer", 1], ["operator", 2]]]
    token = Ceremony(module, "alternatives", rules=[*rules, ["trust key", alternatives]]).found()
    refuse(token, token.command("trust key", KEY, True, by=[token.anna, token.ben]),
           r"officer 2 of 2, operator 2 of 1 \(2 of 3 persons\); or officer 2 of 1, operator 2 of 2 \(2 of 3 persons\)")
    token.execute("trust key", KEY, True, by=token.people)
    refuse(token, token.command("set rule", ["trust key", three], by=[token.anna, token.ben]),
           r"quorum not met: officer 2 of 3 \(2 of 3 persons\)")


def test_a_stranger_and_a_removed_operator(module):
    token = Ceremony(module, "removed").found()
    anna, ben, cleo = token.people
    stranger = Party("Anna", ["officer", "operator"])
    refuse(token, token.command("trust key", KEY, True, by=[anna, ben, stranger]), "unknown signer [0-9a-f]{16}")
    signed_before = token.command("trust key", KEY, True, by=[anna, cleo])
    token.execute("remove operator", cleo.id, by=[anna, ben])
    refuse(token, token.command("trust key", KEY, True, by=[anna, cleo]), f"unknown signer {cleo.kid[:8].hex()}")
    refuse(token, signed_before, "made for other operators, rules, trusted Regions or limits")


def test_a_signature_of_something_else(token):
    command = Command(token.command("trust key", KEY, True, by=[token.anna, token.ben]))
    other = Command(token.command("trust key", KEY, True, by=[token.anna, token.ben]))
    kid = max(command.signatures)
    command.signatures[kid] = other.signatures[kid]
    refuse(token, command.encode(), f"the signature of {kid[:8].hex()} does not verify")
    command.signatures[kid] = bytes(96)
    refuse(token, command.encode(), f"the signature of {kid[:8].hex()} does not verify")


# When and for what


def test_expired_and_not_yet_valid(token):
    now, by = int(time.time()), [token.anna, token.ben]
    refuse(token, token.command("trust key", KEY, True, by=by, not_before=now - 2 * HOUR), "the command has expired")
    refuse(token, token.command("trust key", KEY, True, by=by, not_before=now + HOUR), "the command is not valid yet")
    for valid_for in 7 * DAY + 1, -1:
        refuse(token, token.command("trust key", KEY, True, by=by, not_before=now - 1, valid_for=valid_for),
               "validity is longer than the domain's limit, or ends before it begins")


def test_replayed(token):
    message = token.command("trust key", b"once" * 4, True, by=[token.anna, token.ben])
    token.domain.execute(message)
    refuse(token, message, "the command was executed before")
    more = Command(message).sign(token.cleo.signing).encode()
    refuse(token, more, "the command was executed before")


def test_another_domain(module, token):
    other = Ceremony(module, "another domain")
    other.people = token.people
    other.found()
    by = [token.anna, token.ben]
    refuse(token, other.command("trust key", KEY, True, by=by), "the command is for another domain")
    # Signed for that domain, said to be for this one.
    theirs = other.state
    times = int(time.time()), int(time.time()) + HOUR
    command = Command.make(token.state.domain, token.state.governance, "trust key", [KEY, True], times)
    for person in by:
        to_sign = cose.to_sign(CONTENT_TYPE, person.kid, theirs.domain, command.payload)
        command.signatures[person.kid] = sign(person.signing, to_sign)
    refuse(token, command.encode(), "the signature of [0-9a-f]{16} does not verify")


def test_another_governance(token):
    by = [token.anna, token.ben]
    message = token.command("trust key", KEY, True, by=by)
    offer = token.state.limits.offer
    token.execute("set limits", token.state.limits._replace(offer=offer + 1), by=by)
    refuse(token, message, "made for other operators, rules, trusted Regions or limits than those in force")


# What it would do


def test_lock_out(module):
    token = Ceremony(module, "lock-out").found()
    anna, ben, cleo = token.people
    for rule in [[["officer", 4]]], [[["auditor", 1]]], [[["officer", 2], ["operator", 2]]]:
        refuse(token, token.command("set rule", ["set rule", rule], by=[anna, ben]),
               'the rule of "set rule" could not be met')
    refuse(token, token.command("set rule", ["trust key", [[["officer", 3]]]], by=[anna, ben]),
           '"trust key" would need more persons than it takes to change operators or rules')
    token.execute("remove operator", cleo.id, by=[anna, ben])
    refuse(token, token.command("remove operator", ben.id, by=[anna, ben]), "could not be met by the operators there")


@pytest.mark.parametrize("rule, sentence", [
    (["set rules", [[["officer", 1]]]], "there is no such command"),
    (["found domain", [[["officer", 1]]]], "there is no such command"),
    (["trust key", []], "nobody would be needed"),
    (["trust key", [[["", 1]]]], "a role has no name"),
    (["trust key", [[["officer", 256]]]], "a minimum is above 255"),
])
def test_what_is_no_rule(token, rule, sentence):
    refuse(token, token.command("set rule", rule, by=[token.anna, token.ben]), sentence)


def test_wrong_proofs_of_possession(token):
    domain, by = token.state.domain, [token.anna, token.ben]
    dora, other = Party("Dora"), Party("Other")
    payload = encode(dora.identity()._replace(signing=spki(other.signing)))
    header = encode({cose.ALG: cose.ESP384, cose.CONTENT_TYPE: IDENTITY, cose.KID: other.kid})
    signature = sign(dora.signing, cose.to_sign1(header, domain, payload))
    message = decode(dora.claim(domain))
    replaced = encode(dora.identity()._replace(agreement=spki(other.agreement)))
    claims = [
        dora.claim(bytes(16)),
        Party("Dora", party=HSM).claim(domain),
        encode(cbor2.CBORTag(cose.SIGN1, [header, {}, payload, signature])),
        encode(cbor2.CBORTag(cose.SIGN1, [message.value[0], {}, replaced, message.value[3]])),
        encode(cbor2.CBORTag(cose.SIGN1, [*message.value[:3], bytes(96)])),
    ]
    for claim in claims:
        refuse(token, token.command("add operator", claim, ["officer"], by=by), "no proof of possession of the new key")
    refuse(token, token.command("add operator", token.ben.claim(domain), ["officer"], by=by), "the key is in use already")
    twin = Party("Twin")
    twin.agreement = twin.signing
    refuse(token, token.command("add operator", twin.claim(domain), ["officer"], by=by), "the key is in use already")


def test_changes_that_do_not_fit(token):
    state, by = token.state, [token.anna, token.ben]
    soon = int(time.time()) + HOUR
    for sentence, name, *arguments in [
        ("the operator is unknown", "remove operator", KEY),
        ("the operator is unknown", "re-key operator", Party("Eve").claim(state.domain)),
        ("new keys are for the same person", "re-key operator", Party("Eve", id=token.cleo.id).claim(state.domain)),
        ("the host is unknown", "expel host", KEY),
        ("the user is unknown", "reset PIN", 2, "nobody", [None, soon]),
        ("the user exists already", "create user", 1, None, [None, soon]),
        ("the user exists already", "create user", 0, None, [None, soon]),
        ("the SO opens the token and stays", "remove user", 0, None),
        ("the time to set the PIN in has passed", "reset PIN", 1, None, [None, soon - 2 * HOUR]),
        ("the active domain key is rotated first", "schedule retirement",
         next(key.id for key in state.domain_keys if key.status == 0), None),
        ("the trusted key is unknown", "trust key", KEY, False),
        ("the interval, window or end makes no sense", "standing order", [DAY, DAY, None, soon]),
        ("a lifetime is out of bounds", "set limits", [0] * 6),
        ("domain tokens need the suite", "allow suite", 1, False),
        ("a Region does not trust itself", "trust Region", [state.region, KEY, [spki(token.anna.signing)]]),
        ("the Region is unknown", "distrust Region", "us-west"),
        ("that generation is refused already", "revoke key", KEY, 0),
        ("needs at least as many share holders", "make recovery set", 2, [token.anna.id]),
        ("one person would hold two shares", "make recovery set", 2, sorted([token.anna.id, token.second.id])),
    ]:
        refuse(token, token.command(name, *arguments, by=by), sentence)


# Bytes


def test_each_bit_of_a_command(token):
    """Each bit flipped, all of them; the command itself is good at the end."""
    message = token.command("trust key", b"bits" * 4, True, by=[token.anna, token.ben])
    before, changed = facts(token), bytearray(message)
    sentences = set()
    for bit in range(8 * len(message)):
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Error) as caught:
            token.domain.execute(bytes(changed))
        assert caught.value.rv in (ck.CKR_FUNCTION_REJECTED, ck.CKR_DATA_INVALID), f"bit {bit}: {caught.value}"
        sentences.add(re.sub("[0-9a-f]{16}", "…", str(caught.value)))
        changed[bit // 8] ^= 1 << bit % 8
    assert any("does not verify" in each for each in sentences) and any("malformed" in each for each in sentences)
    assert facts(token) == before
    token.logs_in()
    token.domain.execute(message)


def test_truncated(token):
    message = token.command("trust key", KEY, True, by=[token.anna, token.ben])
    with unchanged(token):
        for end in range(len(message)):
            with pytest.raises(Error) as caught:
                token.domain.execute(message[:end])
            assert caught.value.rv in (ck.CKR_DATA_INVALID, ck.CKR_ARGUMENTS_BAD), f"{end}: {caught.value}"
    refuse(token, message[:-1], "malformed: truncated", "CKR_DATA_INVALID")
    refuse(token, message + b"\0", "malformed: trailing bytes", "CKR_DATA_INVALID")
    with pytest.raises(Error) as caught:
        token.domain.execute(b"")
    assert caught.value.rv in (ck.CKR_DATA_INVALID, ck.CKR_ARGUMENTS_BAD)


def heads(data, at=0):
    """(position, size, major type, argument) of each item's head, and where the item ends."""
    major, short = data[at] >> 5, data[at] & 31
    size = 1 if short < 24 else 1 + (1 << short - 24)
    value = short if short < 24 else int.from_bytes(data[at + 1:at + size], "big")
    found, end = [(at, size, major, value)], at + size
    if major in (2, 3):
        end += value
    items = {4: value, 5: 2 * value, 6: 1}.get(major, 0)
    for _ in range(items):
        inner, end = heads(data, end)
        found += inner
    return found, end


def other_encodings(data):
    """The same value with one head longer than need be, or of no definite length."""
    found, _ = heads(data)
    for at, size, major, value in found:
        if major < 7:
            longer = {1: 24 if value < 24 else 25, 2: 25, 3: 26, 5: 27}.get(size)
            if longer:
                width = 1 << longer - 24
                yield data[:at] + bytes([major << 5 | longer]) + value.to_bytes(width, "big") + data[at + size:]
    for major, end in (4, None), (5, None), (2, None):
        for at, size, kind, value in found:
            if kind == major and kind == 5 and value == 0:
                yield data[:at] + b"\xbf\xff" + data[at + size:]
            if kind == major and kind == 2:
                yield data[:at] + b"\x5f" + data[at:at + size + value] + b"\xff" + data[at + size + value:]
            if kind == major and kind == 4 and at == found[-1][0]:
                yield data[:at] + b"\x9f\xff" + data[at + size:]


def test_other_encodings_of_the_message(token):
    message = token.command("trust key", KEY, True, by=[token.anna, token.ben])
    encodings = list(other_encodings(message))
    assert len(encodings) > 20 and all(cbor2.loads(each) == cbor2.loads(message) for each in encodings)
    for each in encodings:
        with pytest.raises(Error, match="CKR_DATA_INVALID.*malformed"):
            token.domain.execute(each)
    tagged = decode(message)
    for part in ({1: 2}, {4: token.anna.kid}):
        unprotected = decode(message)
        unprotected.value[1] = part
        refuse(token, encode(unprotected), "malformed", "CKR_DATA_INVALID")
    tagged.value[3].reverse()
    refuse(token, encode(tagged), "the signatures are not in order", "CKR_DATA_INVALID")
    refuse(token, encode(tagged.value), "malformed", "CKR_DATA_INVALID")


def test_other_encodings_of_the_payload(token):
    """Signed as they are, so that nothing but the encoding is wrong."""
    payload = Command(token.command("trust key", KEY, True)).payload
    fields = decode(payload)
    malformed = [
        *other_encodings(payload),
        payload + b"\0",
        encode([*fields, 0]),
        encode(fields[:-1]),
        encode([*fields[:2], "trust keys", *fields[3:]]),
        encode([*fields[:3], [KEY, 1], *fields[4:]]),
        encode([*fields[:3], [KEY[:-1], True], *fields[4:]]),
        encode([*fields[:4], -1, *fields[5:]]),
        encode([*fields[:4], 1.5, *fields[5:]]),
        encode([*fields[:4], 1 << 64, *fields[5:]]),
        encode([*fields[:2], b"trust key", *fields[3:]]),
    ]
    with unchanged(token):
        for each in malformed:
            signatures = {
                person.kid: sign(person.signing, cose.to_sign(CONTENT_TYPE, person.kid, token.state.domain, each))
                for person in (token.anna, token.ben)
            }
            with pytest.raises(Error, match="CKR_DATA_INVALID.*malformed"):
                token.domain.execute(cose.signed(CONTENT_TYPE, each, signatures))


def test_too_large(token):
    refuse(token, bytes(1 << 20 | 1), "the command is too large", "CKR_DATA_INVALID")
    signatures = {n.to_bytes(32, "big"): bytes(96) for n in range(1025)}
    payload = Command(token.command("trust key", KEY, True)).payload
    refuse(token, cose.signed(CONTENT_TYPE, payload, signatures), "too many signatures", "CKR_DATA_INVALID")


# Who governs


@pytest.mark.embedded("the SO founds it; a fleet is founded at its operators' socket")
def test_founding(unfounded):
    anna, ben, cleo = unfounded.people
    arguments = unfounded.founding()
    refuse(unfounded, unfounded.command("found domain", *arguments, by=[anna, ben]), "every founding operator: 2 of 3")
    stranger = Party("Eve", ["officer"])
    refuse(unfounded, unfounded.command("found domain", *arguments, by=[anna, ben, cleo, stranger]), "unknown signer")
    refuse(unfounded, unfounded.command("trust key", KEY, True, by=[anna, ben]), "the domain is not founded: the SO governs")
    alone = unfounded.founding([anna])
    refuse(unfounded, unfounded.command("found domain", *alone, by=[anna]), "could not be met by the operators there")
    twice = Party("Anna", ["officer", "operator"])
    refuse(unfounded, unfounded.command("found domain", *unfounded.founding([anna, twice]), by=[anna, twice]),
           "could not be met by the operators there")
    members = [[KEY, *member[1:]] for member in arguments[1]]
    refuse(unfounded, unfounded.command("found domain", arguments[0], members, *arguments[2:], by=unfounded.people),
           "they name other HSMs than the domain has")
    for region in "", "local-1":
        refuse(unfounded, unfounded.command("found domain", region, *arguments[1:], by=unfounded.people),
               "the Region needs a name of its own")
    with pytest.raises(Error, match="CKR_FUNCTION_REJECTED.*not founded"):
        unfounded.domain.history()


def test_founding_is_once(token):
    refuse(token, token.command("found domain", *token.founding(), by=token.people), "the domain is founded already")


def execute_in(session, message):
    with pytest.raises(Error) as caught:
        session.domain.execute(message)
    return ck.name("CKR_", caught.value.rv)


def test_execution_needs_a_login_and_a_writable_session(module, token):
    message = token.command("trust key", KEY, True, by=[token.anna, token.ben])
    with unchanged(token):
        token.session.logout()
        with module.session(token.slot, writable=False) as reader:
            # A fleet's domain is open without a login, and the command's signatures are enough.
            if not FLEETS:
                assert execute_in(token.session, message) == "CKR_USER_NOT_LOGGED_IN"
            token.login(PIN, ck.CKU_USER)
            assert execute_in(reader, message) == "CKR_SESSION_READ_ONLY"
        token.session.logout()
        token.login()
    # Whoever is logged in opens the domain; who governs it are the operators.
    token.session.logout()
    token.login(PIN, ck.CKU_USER)
    token.domain.execute(message)
    token.domain.execute(token.command("trust key", KEY, False, by=[token.anna, token.ben]))
    token.session.logout()
    token.login()


@pytest.mark.embedded("the SO founds it; a fleet is founded at its operators' socket")
def test_the_founding_needs_the_so(module, unfounded):
    message = unfounded.command("found domain", *unfounded.founding(), by=unfounded.people)
    with unchanged(unfounded):
        unfounded.session.logout()
        assert execute_in(unfounded.session, message) == "CKR_USER_NOT_LOGGED_IN"
        unfounded.login(PIN, ck.CKU_USER)
        assert execute_in(unfounded.session, message) == "CKR_USER_NOT_LOGGED_IN"
        unfounded.session.logout()
        unfounded.login()


def test_what_an_so_could_do(module):
    """After the founding the SO opens the token, and nothing else."""
    token = Ceremony(module, "SO").found()
    session = token.session
    public = {ck.CKA_TOKEN: True, ck.CKA_PRIVATE: False, ck.CKA_VALUE_LEN: 32, ck.CKA_WRAP: True}
    key = session.generate(ck.CKM_AES_KEY_GEN, public)
    with unchanged(token):
        with pytest.raises(Error, match="CKR_TOKEN_WRITE_PROTECTED"):
            token.init_pin("another-pin")
        with pytest.raises(Error, match="CKR_ATTRIBUTE_READ_ONLY"):
            session.set(key, {ck.CKA_TRUSTED: True})
        with pytest.raises(Error, match="CKR_ATTRIBUTE_READ_ONLY|CKR_ATTRIBUTE_TYPE_INVALID|CKR_TEMPLATE_INCONSISTENT"):
            session.generate(ck.CKM_AES_KEY_GEN, {**public, ck.CKA_TRUSTED: True})
        with pytest.raises(Error, match="CKR_TOKEN_WRITE_PROTECTED.*no command allows a new PIN now"):
            token.domain.set_enrolled_pin(b"another-pin")
    with unchanged(token):
        session.logout()
        session.close()
        with pytest.raises(Error, match="CKR_TOKEN_WRITE_PROTECTED"):
            module.init_token(token.slot, SO_PIN.encode(), "SO")
        token.open()
        token.login()


# The store, which another may have written to


def rows(token):
    """The stored domain tokens and log, by version."""
    tokens = edit(token.database, ["SELECT version, bytes FROM domain"])
    entries = edit(token.database, ["SELECT version, entry FROM log"])
    return dict(tokens), dict(entries)


def put_back(token, held):
    """The rows as they were."""
    tokens, entries = held
    edit(token.database, [
        "BEGIN IMMEDIATE", "DELETE FROM domain", "DELETE FROM log",
        *[f"INSERT INTO domain VALUES ({version}, x'{data}')" for version, data in tokens.items()],
        *[f"INSERT INTO log VALUES ({version}, x'{data}')" for version, data in entries.items()],
        "COMMIT",
    ])


def says(call, sentence):
    """That a call cannot read the token, and why."""
    with pytest.raises(Error) as caught:
        call()
    assert caught.value.rv == ck.CKR_TOKEN_NOT_RECOGNIZED, caught.value
    assert re.search(sentence, str(caught.value)), caught.value


def login_again(token):
    """A login, which looks at what is stored."""
    token.session.logout()
    token.login()


def test_an_old_domain_token_in_the_store(module):
    token = Ceremony(module, "old token").found()
    by = [token.anna, token.ben]
    token.execute("trust key", KEY, True, by=by)
    old = rows(token)
    token.execute("trust key", KEY, False, by=by)
    held, state = rows(token), token.state
    message = token.command("trust key", b"n" * 16, True, by=by)
    put_back(token, old)
    # A fleet's login is its HSM's, which knows the newest state.
    logins = [] if FLEETS else [lambda: login_again(token)]
    for look in (lambda: token.domain.execute(message), token.domain.export_token, *logins):
        says(look, "older than the one held")
    put_back(token, held)
    if not FLEETS:
        token.login()
    assert token.state.encode() == state.encode()
    token.domain.execute(message)
    token.logs_in()


@pytest.fixture(scope="module")
def lied_to(module):
    return Ceremony(module, "lied to").found()


@pytest.mark.parametrize("forgery, sentence", [
    ("missing", "the log .* is missing or incomplete"),
    ("one of before", "the entry is dated|executed before|other operators"),
    ("a flipped bit", "does not verify"),
    ("no entry", "malformed"),
    ("unsigned", "quorum not met"),
    ("of another command", "the log does not lead from the state held"),
    ("with a key too much", "the entry does not say exactly what its command makes"),
    ("of tomorrow", "the entry is dated in the future"),
    ("a PIN that nobody allowed", "no PIN may be set for this role now"),
    ("a rotation that nobody ordered", "no standing order allows this now"),
])
def test_a_forged_or_missing_log(lied_to, forgery, sentence):
    """Another process executes a command; this one is shown another log of it."""
    token, key = lied_to, os.urandom(16)
    by = [token.anna, token.ben]
    token.execute("trust key", key, True, by=by)
    message = token.command("trust key", key, False, by=by)
    assert elsewhere(os.environ["CONCLAVE_HOME"], token.label, message)[0] == ["CKR_OK"]
    held = rows(token)
    version = max(held[1])
    entry = bytes.fromhex(held[1][version])
    kind, at, command, results = decode(entry)
    unsigned = Command(command)
    unsigned.signatures = {}
    forged = {
        "missing": None,
        "one of before": bytes.fromhex(held[1][version - 1]),
        "a flipped bit": flip(entry, command),
        "no entry": b"\0",
        "unsigned": encode([kind, at, unsigned.encode(), results]),
        "of another command": another_entry(token, held, version),
        "with a key too much": encode([kind, at, command, [KEY, None, None]]),
        "of tomorrow": encode([kind, at + DAY, command, results]),
        "a PIN that nobody allowed": encode([1, at, 2, "eve", spki(token.anna.signing), None]),
        "a rotation that nobody ordered": encode([2, at, KEY]),
    }[forgery]
    edit(token.database, [f"UPDATE log SET entry = x'{forged.hex()}' WHERE version = {version}" if forged else
                          f"DELETE FROM log WHERE version = {version}"])
    says(lambda: login_again(token), sentence)
    put_back(token, held)
    token.login()
    assert token.state.version == version
    token.history()
    token.execute("trust key", key, True, by=by)
    token.logs_in()


def another_entry(token, held, version):
    """A valid entry for the version, by another command."""
    kind, at, _, results = decode(bytes.fromhex(held[1][version]))
    state = Token(bytes.fromhex(held[0][version - 1])).state
    command = Command.of(state, "trust key", b"o" * 16, True, not_before=at).sign(token.anna.signing, token.ben.signing)
    return encode([kind, at, command.encode(), results])


def flip(entry, command):
    """With one bit of the last signature changed."""
    changed = bytearray(entry)
    changed[entry.index(command) + len(command) - 1] ^= 1
    return bytes(changed)


@pytest.mark.embedded("a copy of the data directory has a copy of its HSM")
def test_two_tokens_for_one_version(module, capfd):
    """A copy of the data directory executes another command; then the store shows its token."""
    token = Ceremony(module, "fork").found()
    by = [token.anna, token.ben]
    ours = token.command("trust key", b"a" * 16, True, by=by)
    theirs = token.command("trust key", b"b" * 16, True, by=by)
    home = copy_of_home(os.environ["CONCLAVE_HOME"])
    assert elsewhere(home, token.label, theirs)[0] == ["CKR_OK"]
    token.domain.execute(ours)
    held, state = rows(token), token.state
    version = state.version
    copied = home / "tokens" / str(token.slot) / "token.db"
    (shown,), (entry,) = (
        edit(copied, [f"SELECT bytes FROM domain WHERE version = {version}"])[0],
        edit(copied, [f"SELECT entry FROM log WHERE version = {version}"])[0],
    )
    other = Token(bytes.fromhex(shown))
    assert (other.state.version, other.state.previous) == (version, state.previous) and other.hash != state.hash()
    put_back(token, ({**held[0], version: shown}, {**held[1], version: entry}))
    both = f"held {state.hash().hex()}, shown {other.hash.hex()}"
    next_one = token.command("trust key", b"c" * 16, True, by=by, state=state)
    for look in (lambda: token.domain.execute(next_one), token.domain.export_token, lambda: login_again(token)):
        capfd.readouterr()
        says(look, both)
        said = capfd.readouterr().err
        assert "ERROR" in said and state.hash().hex() in said and other.hash.hex() in said
    put_back(token, held)
    token.login()
    assert token.state.encode() == state.encode()
    token.execute("trust key", b"c" * 16, True, by=by)
    token.logs_in()
