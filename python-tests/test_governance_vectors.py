"""The commands, the log and the recovery of docs/protocols.md, read by other code.

The log is verified from what is public: the states, the entries, and nobody's private key.
"""

import itertools
import json

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from test_vectors import (
    ALG,
    CONTENT_TYPE,
    DIRECTORY,
    ESP384,
    KID,
    SIGN,
    SIGN1,
    Token,
    decode,
    encode,
    hkdf,
    message,
    open_under_pin,
    private_key,
    sha256,
    sha384,
    spki,
    unhex,
    vectors,
    verify,
)

COMMAND = "application/vnd.conclave.command"
IDENTITY = "application/vnd.conclave.identity"
ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)


def lists(value):
    """What is inside a tag, with lists for the tuples that `cbor2` gives there."""
    return [lists(item) for item in value] if isinstance(value, (list, tuple)) else value


def sign(key, data):
    """ESP384 with the nonce of RFC 6979, so that everybody makes the same signature."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA384(), deterministic_signing=True)))
    return r.to_bytes(48, "big") + s.to_bytes(48, "big")


class Command:
    """A signed command, taken apart; verified against the operators of a state."""

    def __init__(self, data):
        tagged = decode(data)
        assert tagged.tag == SIGN
        self.protected, unprotected, self.payload, signatures = tagged.value
        assert decode(self.protected) == {CONTENT_TYPE: COMMAND} and not unprotected
        self.domain, self.governance, self.name, self.arguments, *validity = decode(self.payload)
        self.not_before, self.not_after, self.nonce = validity
        self.signatures = {}
        for protected, unprotected, signature in signatures:
            header = decode(protected)
            assert header[ALG] == ESP384 and set(header) == {ALG, KID} and not unprotected
            assert all(kid < header[KID] for kid in self.signatures)
            self.signatures[header[KID]] = protected, signature

    def signers(self, operators):
        """The operators whose signatures these are; every signature is one's."""
        signers = []
        for kid, (protected, signature) in self.signatures.items():
            (operator,) = [o for o in operators if sha256(o[3]) == kid]
            verify(operator[3], self.to_sign(protected), signature)
            signers.append(operator)
        return signers

    def to_sign(self, protected):
        return encode(["Signature", self.protected, protected, self.domain, self.payload])


def quorum_met(alternatives, signers, operators):
    """Tries every way to put persons into the places of each alternative."""
    roles = {}
    for _, person, own, *_ in signers:
        roles.setdefault(person, set()).update(own)
    for alternative in alternatives:
        places = []
        for role, minimum in alternative:
            if minimum == 0:
                holders = len({person for _, person, own, *_ in operators if role in own})
                minimum = holders // 2 + 1 if holders > 3 else 2
            places += [role] * minimum
        for persons in itertools.permutations(roles, len(places)):
            if all(role in roles[person] for role, person in zip(places, persons)):
                return True
    return False


def claimed(data, domain):
    """The identity that a claim proves."""
    header, protected, (payload, signature) = message(data, SIGN1, {KID})
    party, identifier, name, signing, agreement = decode(payload)
    assert header == {ALG: ESP384, CONTENT_TYPE: IDENTITY, KID: sha256(signing)}
    verify(signing, encode(["Signature1", protected, domain, payload]), signature)
    return party, identifier, name, signing, agreement


@pytest.mark.parametrize("vector", vectors("identity.json"))
def test_identities(vector):
    domain, identifier, scalar, expected = unhex(vector, "domain", "id", "signing_private", "message")
    key = private_key(scalar)
    agreement = vector["agreement"] and bytes.fromhex(vector["agreement"])
    identity = [vector["party"], identifier, vector["name"], spki(key), agreement]
    assert claimed(expected, domain) == tuple(identity)
    payload = encode(identity)
    protected = encode({ALG: ESP384, CONTENT_TYPE: IDENTITY, KID: sha256(spki(key))})
    signature = sign(key, encode(["Signature1", protected, domain, payload]))
    assert lists(decode(expected).value) == [protected, {}, payload, signature]


@pytest.mark.parametrize("vector", vectors("command.json"))
def test_commands_are_made(vector):
    domain, governance, arguments, nonce, expected = unhex(
        vector, "domain", "governance", "arguments", "nonce", "signed"
    )
    validity = [vector["not_before"], vector["not_after"]]
    payload = encode([domain, governance, vector["command"], decode(arguments), *validity, nonce])
    protected = encode({CONTENT_TYPE: COMMAND})
    signatures = []
    for scalar in vector["signers"]:
        key = private_key(bytes.fromhex(scalar))
        header = encode({ALG: ESP384, KID: sha256(spki(key))})
        signature = sign(key, encode(["Signature", protected, header, domain, payload]))
        signatures.append((sha256(spki(key)), [header, {}, signature]))
    signatures = [signature for _, signature in sorted(signatures)]
    made = decode(expected)
    assert made.tag == SIGN and lists(made.value) == [protected, {}, payload, signatures]
    command = Command(expected)
    assert (command.name, command.nonce) == (vector["command"], nonce)
    assert f"Command: {command.name}\n" in vector["words"]


class History:
    """Follows a log from the state that the SO governed."""

    def __init__(self, genesis):
        self.encoded, self.state = genesis, decode(genesis)
        assert self.state[9] is None and self.state[15] == []

    def follow(self, entry, encoded):
        """Verifies one entry and the state it leads to; gives the persons who signed."""
        old, new = self.state, decode(encoded)
        kind, at, *rest = decode(entry)
        assert at >= old[24] and new[24] == at
        assert new[6] == old[6] + 1 and new[7] == sha384(self.encoded)
        assert new[9] == sha384((old[9] or sha384(self.encoded)) + entry)
        assert new[8] == sha384(encode([new[12], new[15], new[19], new[22], new[23]]))
        signers = []
        if kind == 0:
            signers = self.follow_command(*rest, at, new)
        elif kind == 1:
            self.follow_pin(rest, at, new)
        elif kind == 2:
            interval, window, retain, until = old[25]
            (created,) = [key[2] for key in old[16] if key[1] == 0]
            assert at <= until and at - created >= interval and (at - created) % interval <= window
            self.follow_rotation(rest[0], at, retain, new)
        else:
            (retires,) = [key[3] for key in old[16] if key[0] == rest[0] and key[1] == 1]
            assert kind == 3 and retires <= at
            assert new[16] == [key for key in old[16] if key[0] != rest[0]]
        self.encoded, self.state = encoded, new
        return sorted(person for _, person, *_ in signers)

    def follow_command(self, data, results, at, new):
        old, command = self.state, Command(data)
        assert command.domain == old[1] and command.governance == old[8]
        assert command.not_before <= at <= command.not_after <= command.not_before + old[22][4]
        assert command.nonce not in old[21]
        kept = {nonce: until for nonce, until in old[21].items() if until >= at}
        assert new[21] == {**kept, command.nonce: command.not_after}
        domain_key, replication_key, recovery = results
        if domain_key:
            self.follow_rotation(domain_key, at, None, new)
        if replication_key:
            assert new[18][-1] == replication_key
        if recovery:
            assert new[27] == recovery and new[11] == [[recovery[0], recovery[1][0]]]
        if command.name == "found domain":
            region, members, operators, _ = command.arguments
            assert (new[3], new[10]) == (region, old[10]) and members == old[10]
            founders = []
            for claim, roles in operators:
                party, identifier, person, signing, agreement = claimed(claim, old[1])
                assert party == 0
                founders.append([identifier, person, roles, signing, agreement])
            assert new[12] == sorted(founders)
            signers = command.signers(founders)
            assert len(signers) == len(founders)
            return signers
        if command.name == "recover domain":
            claim, version, named = command.arguments
            party, identifier, _, *keys = claimed(claim, old[1])
            assert party == 2 and (version, named) == (old[6], sha384(self.encoded))
            assert new[10] == [[identifier, *keys]] and new[18] == [replication_key]
            # Nobody has a PIN; the SO of an embedded domain may set one.
            enrolment = [None, at + 3600] if old[5] else None
            assert new[14] == [
                [role, name, generation + 1, None, enrolment if role == 0 else None]
                for role, name, generation, *_ in old[14]
            ]
        if command.name == "add operator":
            claim, roles = command.arguments
            party, identifier, person, *keys = claimed(claim, old[1])
            assert party == 0 and [identifier, person, roles, *keys] in new[12] and len(new[12]) == len(old[12]) + 1
        elif command.name == "remove operator":
            assert new[12] == [operator for operator in old[12] if operator[0] != command.arguments[0]]
        else:
            assert new[12] == old[12]
        (rule,) = [alternatives for name, alternatives in old[15] if name == command.name]
        signers = command.signers(old[12])
        assert quorum_met(rule, signers, old[12])
        return signers

    def follow_pin(self, rest, at, new):
        role, name, agreement, code = rest
        (held,) = [user for user in self.state[14] if user[:2] == [role, name]]
        if held[4]:
            expected, until = held[4]
            assert at <= until
            assert expected == (code and sha384(encode(["enrolment", self.state[1], code])))
        else:
            assert held[3] and code is None
        assert [role, name, held[2] + 1, agreement, None] in new[14]

    def follow_rotation(self, key, at, retain, new):
        expected = [[i, 1, c, retain and at + retain, r] if s == 0 else [i, s, c, d, r] for i, s, c, d, r in self.state[16]]
        assert new[16] == sorted([*expected, [key, 0, at, None, new[3]]])


def log():
    return json.loads((DIRECTORY / "log.json").read_text())


def test_a_log_is_verified():
    data = log()
    history = History(bytes.fromhex(data["genesis"]))
    for step in data["steps"]:
        entry, state, expected_hash = unhex(step, "entry", "state", "hash")
        assert history.follow(entry, state) == step["signers"]
        assert sha384(state) == expected_hash


def test_a_changed_log_is_refused():
    data = log()
    for n, step in enumerate(data["steps"]):
        entry = bytes.fromhex(step["entry"])
        for at in range(0, len(entry), 41):
            history = History(bytes.fromhex(data["genesis"]))
            for before in data["steps"][:n]:
                history.encoded = bytes.fromhex(before["state"])
            history.state = decode(history.encoded)
            changed = bytearray(entry)
            changed[at] ^= 1
            with pytest.raises(Exception):
                history.follow(bytes(changed), bytes.fromhex(step["state"]))


def unwrap(key, peer, label, transcript, sealed):
    """A share: one-pass agreement, then AES-256-GCM."""
    shared = key.exchange(ec.ECDH(), serialization.load_der_public_key(peer))
    wrapping = hkdf(shared, 44, ["conclave/1", label, 1, sha384(encode(transcript))])
    return AESGCM(wrapping[:32]).decrypt(wrapping[32:], sealed, None)


def combine(shares):
    """The polynomial's value at 0, by Lagrange's formula."""
    total = 0
    for i, value in shares.items():
        for j in shares:
            if j != i:
                value = value * j * pow(j - i, -1, ORDER) % ORDER
        total = (total + value) % ORDER
    return total.to_bytes(48, "big")


@pytest.mark.parametrize("vector", vectors("recovery.json"))
def test_recovery(vector):
    data, recovery_scalar, secrets, command_data, hsm_scalar, recovered = unhex(
        vector, "token", "recovery_private", "secrets", "command", "hsm_agreement_private", "recovered"
    )
    token = Token(data)
    domain = token.state[1]
    set_id, commitments, ephemeral, shares = token.state[27]
    assert token.state[11] == [[set_id, commitments[0]]] and spki(private_key(recovery_scalar)) == commitments[0]
    assert len(commitments) == 2

    command = Command(command_data)
    assert command.name == "recover domain"
    (rule,) = [alternatives for name, alternatives in token.state[15] if name == command.name]
    assert quorum_met(rule, command.signers(token.state[12]), token.state[12])
    claim, version, state_hash = command.arguments
    assert (version, state_hash) == (token.state[6], token.hash)
    party, _, _, _, hsm = claimed(claim, domain)
    assert party == 2 and hsm == spki(private_key(hsm_scalar))

    opened, contributed = {}, {}
    for scalar, contribution in zip(vector["agreement_privates"], vector["contributions"]):
        key = private_key(bytes.fromhex(scalar))
        suite, operator, contributed_ephemeral, resealed = decode(bytes.fromhex(contribution))
        assert suite == 1
        (index, sealed) = [(n + 1, sealed) for n, (holder, sealed) in enumerate(shares) if holder == operator][0]
        transcript = [domain, set_id, index, operator, ephemeral, spki(key), commitments[0]]
        opened[index] = int.from_bytes(unwrap(key, ephemeral, "recovery-share", transcript, sealed), "big")
        transcript = [domain, set_id, sha384(command_data), index, contributed_ephemeral, hsm]
        share = unwrap(private_key(hsm_scalar), contributed_ephemeral, "recovery-contribution", transcript, resealed)
        contributed[index] = int.from_bytes(share, "big")
    assert opened == contributed and len(opened) == 3
    for pair in itertools.combinations(opened, 2):
        assert combine({n: opened[n] for n in pair}) == recovery_scalar
    assert combine({1: opened[1]}) != recovery_scalar
    assert token.open(private_key(recovery_scalar)) == secrets

    # The token after the recovery: another member alone, new keys, and a new recovery set.
    after = Token(recovered)
    assert after.state[7] == token.hash and [qhak for _, _, qhak in after.members] == [hsm]
    after.check_secrets(after.open(private_key(hsm_scalar)))
    assert after.state[27] != token.state[27] and after.state[18] != token.state[18]


@pytest.mark.parametrize("vector", vectors("recovery-keys.json"))
def test_keys_that_wait_for_a_recovery(vector):
    domain, pin, identifier, claim, sealed = unhex(vector, "domain", "pin", "id", "claim", "sealed")
    scalars = unhex(vector, "signing_private", "agreement_private")
    publics = [spki(private_key(scalar)) for scalar in scalars]
    party, claimed_id, _, *keys = claimed(claim, domain)
    assert (party, claimed_id, keys) == (2, identifier, publics)
    parameters = open_under_pin(sealed, pin, "recovery-keys")
    assert open_under_pin(sealed, pin + b"x", "recovery-keys") is None
    header, body = parameters
    assert header[:3] == [domain, vector["serial"], identifier] and header[4:] == publics
    assert decode(body) == scalars
