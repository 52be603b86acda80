"""The peer's reading of commands, the log, histories and recovery, checked against tests/vectors/domain.

A log is verified from what is public: the states, the entries, and nobody's private key.
"""

import itertools
import json

import pytest
from peer import cose
from peer.change import ARGUMENTS
from peer.command import Command
from peer.encoding import Refused, decode, encode
from peer.identity import HSM, claimed
from peer.keys import private_key, sha256, sha384, spki
from peer.log import History, follow
from peer.recovery import combine, open_contribution, open_share
from peer.state import State
from peer.token import Token
from test_vectors import DIRECTORY, open_under_pin, unhex, vectors

NOW = 1 << 40


@pytest.mark.parametrize("vector", vectors("identity.json"))
def test_identities(vector):
    domain, identifier, scalar, expected = unhex(vector, "domain", "id", "signing_private", "message")
    key = private_key(scalar)
    agreement = vector["agreement"] and bytes.fromhex(vector["agreement"])
    identity = (vector["party"], identifier, vector["name"], spki(key), agreement)
    assert claimed(expected, domain, vector["party"]) == identity
    assert cose.sign1(key, "application/vnd.conclave.identity", domain, encode(identity)) == expected
    for other in (bytes(16), vector["party"]), (domain, (vector["party"] + 1) % 3):
        with pytest.raises(Refused):
            claimed(expected, *other)


@pytest.mark.parametrize("vector", vectors("command.json"))
def test_commands_are_made(vector):
    domain, governance, arguments, nonce, expected = unhex(
        vector, "domain", "governance", "arguments", "nonce", "signed"
    )
    validity = vector["not_before"], vector["not_after"]
    command = Command.make(domain, governance, vector["command"], decode(arguments), validity, nonce)
    assert command.arguments == decode(arguments, ARGUMENTS[command.name])
    command.sign(*[private_key(bytes.fromhex(scalar)) for scalar in vector["signers"]])
    assert command.encode() == Command(expected).encode() == expected
    assert f"Command: {command.name}\n" in vector["words"]


def test_one_of_each_command():
    assert {vector.values[0]["command"] for vector in vectors("command.json")} == set(ARGUMENTS)


def log(name="log.json"):
    return json.loads((DIRECTORY / name).read_text())


@pytest.mark.parametrize("name", ["log.json", "fleet-log.json"])
def test_a_log_is_verified(name):
    data = log(name)
    state = State(bytes.fromhex(data["genesis"]))
    for step in data["steps"]:
        entry, encoded, expected_hash = unhex(step, "entry", "state", "hash")
        state, found = follow(state, entry, NOW)
        assert (state.encode(), found.hash, found.persons) == (encoded, expected_hash, step["signers"])


def test_an_embedded_domain_becomes_a_fleet():
    data = log("fleet-log.json")
    states = [State(bytes.fromhex(data["genesis"])), *[State(bytes.fromhex(step["state"])) for step in data["steps"]]]
    assert [(len(state.members), state.embedded is not None) for state in states] == [
        (1, True), (1, True), (2, True), (1, False), (1, False)]
    assert len({state.serial for state in states}) == 1
    for token, state in zip(data["tokens"], states[3:]):
        token = Token(bytes.fromhex(token))
        assert token.hash == state.hash() and [kid for kid, _ in token.wrapped] == [sha256(state.members[0].agreement)]


def test_a_changed_log_is_refused():
    data = log()
    before = State(bytes.fromhex(data["genesis"]))
    for step in data["steps"]:
        entry, encoded = unhex(step, "entry", "state")
        for at in range(0, len(entry), 41):
            changed = bytearray(entry)
            changed[at] ^= 1
            try:
                assert follow(before, bytes(changed), NOW)[0].encode() != encoded
            except Refused:
                pass
        before = State(encoded)


@pytest.mark.parametrize("vector", vectors("history.json"))
def test_histories(vector):
    data = bytes.fromhex(vector["history"])
    history = History(data, NOW)
    assert history.newest.hash == bytes.fromhex(vector["hash"])
    expected = [(s["version"], s["at"], s["signers"], bytes.fromhex(s["hash"])) for s in log()["steps"]]
    assert [(s.version, s.at, s.persons, s.hash) for s in history.steps] == expected
    origin, entries, newest = decode(data)
    damaged = [[origin, entries[1:], newest], [origin, entries[:-1], newest], [newest, entries, newest],
               [origin, [*entries, entries[-1]], newest], [origin, entries[1::-1] + entries[2:], newest],
               [origin, entries, origin]]
    for changed in damaged:
        with pytest.raises(Refused):
            History(encode(changed), NOW)


@pytest.mark.parametrize("vector", vectors("history.json"))
def test_a_changed_history_is_refused(vector):
    data = bytes.fromhex(vector["history"])
    for at in range(0, len(data), 131):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        with pytest.raises(Refused):
            History(bytes(changed), NOW)


@pytest.mark.parametrize("vector", vectors("recovery.json"))
def test_recovery(vector):
    data, recovery_scalar, secrets, message, hsm_scalar, recovered = unhex(
        vector, "token", "recovery_private", "secrets", "command", "hsm_agreement_private", "recovered"
    )
    token, hsm = Token(data), private_key(hsm_scalar)
    state, recovery = token.state, token.state.recovery
    assert spki(private_key(recovery_scalar)) == recovery.commitments[0] and len(recovery.commitments) == 2

    command = Command(message)
    assert command.name == "recover domain" and command.verify(state, command.not_before)
    claim, version, state_hash = command.arguments
    assert (version, state_hash) == (state.version, token.hash)
    assert claimed(claim, state.domain, HSM).agreement == spki(hsm)

    opened, contributed = {}, {}
    for scalar, contribution in zip(vector["agreement_privates"], vector["contributions"]):
        key, contribution = private_key(bytes.fromhex(scalar)), bytes.fromhex(contribution)
        (operator,) = [operator.id for operator in state.operators if operator.agreement == spki(key)]
        opened.update([open_share(state.domain, recovery, operator, key)])
        contributed.update([open_contribution(state.domain, recovery, message, contribution, hsm)])
    assert opened == contributed and len(opened) == 3
    for pair in itertools.combinations(opened, 2):
        assert combine({n: opened[n] for n in pair}) == recovery_scalar
    assert combine({1: opened[1]}) != recovery_scalar
    assert token.open(private_key(recovery_scalar)) == secrets
    token.check_secrets(secrets)

    # The token after the recovery: another member alone, new keys, and a new recovery set.
    after = Token(recovered)
    assert after.state.previous == token.hash and [m.agreement for m in after.state.members] == [spki(hsm)]
    after.check_secrets(after.open(hsm))
    assert after.state.recovery != recovery and after.state.replication_keys != state.replication_keys


@pytest.mark.parametrize("vector", vectors("recovery-keys.json"))
def test_keys_that_wait_for_a_recovery(vector):
    domain, pin, identifier, claim, sealed = unhex(vector, "domain", "pin", "id", "claim", "sealed")
    scalars = unhex(vector, "signing_private", "agreement_private")
    publics = [spki(private_key(scalar)) for scalar in scalars]
    identity = claimed(claim, domain, HSM)
    assert (identity.id, [identity.signing, identity.agreement]) == (identifier, publics)
    assert open_under_pin(sealed, pin + b"x", "recovery-keys") is None
    parameters, plaintext = open_under_pin(sealed, pin, "recovery-keys")
    assert parameters[:3] == [domain, vector["serial"], identifier] and parameters[4:] == publics
    assert decode(plaintext) == scalars
