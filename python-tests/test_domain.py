"""A domain whose operators' keys are Python's: every command is made and signed by the peer and executed
by the module, and after each the peer's state is the module's."""

import time

import pytest
from ceremony import DAY, Ceremony
from conftest import FLEETS, PIN, SO_PIN
from cryptoki import Error, ck
from peer.command import HOUR, Command
from peer.encoding import Refused, decode, encode
from peer.identity import HOST, HSM, Party, claimed
from peer.keys import new_key, spki
from peer.log import History, enrolment_hash
from peer.recovery import contribute

NEW_PIN = "a-new-pin"
AES = {ck.CKA_TOKEN: True, ck.CKA_VALUE_LEN: 32, ck.CKA_ENCRYPT: True, ck.CKA_WRAP: True}


class Proposing(Ceremony):
    """Executes what the peer made, and looks whether KMS_Propose would have made the same."""

    def do(self, name, /, *arguments, by, **request):
        before = self.state
        command = Command.of(before, name, *arguments)
        request = {"command": name, **request, "valid_from": command.not_before, "valid_for": HOUR}
        proposal = self.domain.propose(request)
        nonce, validity = Command(proposal).nonce, (command.not_before, command.not_after)
        same = Command.make(before.domain, before.governance, name, list(arguments), validity, nonce)
        assert proposal == same.encode()
        signed = command.sign(*[person.signing for person in by]).encode()
        described = self.domain.describe_proposal(signed)
        assert (described["quorum_met"], described["refusal"], described["id"]) == (True, None, command.id().hex())
        assert {(each["person"], each["valid"]) for each in described["signers"]} == {(p.name, True) for p in by}
        self.domain.execute(signed)
        step = self.check_step(before)
        assert (step.name, step.persons) == (name, sorted(person.name for person in by))

    def set_pin(self, role, request):
        """A new PIN where an enrolment with a code is open."""
        before = self.state
        user = {1: ck.CKU_USER, 2: ck.CKU_USER}[role[0]]
        with pytest.raises(Error, match="the enrolment code is wrong"):
            self.domain.set_enrolled_pin(NEW_PIN.encode(), user, role[1] and role[1].encode(), b"another")
        self.domain.set_enrolled_pin(NEW_PIN.encode(), user, role[1] and role[1].encode(), request["code"].encode())
        assert self.check_step(before).name == "PIN set"


def refused(sentence):
    return pytest.raises(Error, match=f"CKR_FUNCTION_REJECTED.*{sentence}")


def test_every_command(module):
    token = Proposing(module, "every command")
    anna, ben, cleo = token.people
    domain = token.state.domain
    with token.module.session(token.slot) as session:
        token.session.logout()
        session.login(PIN.encode())
        key = session.generate(ck.CKM_AES_KEY_GEN, AES)
        object_id = bytes.fromhex(session.get(key, ck.CKA_UNIQUE_ID).decode())
        token.session.logout()
    token.login()

    # A fleet is founded already.
    if not FLEETS:
        arguments = token.founding()
        operators = [{"claim": claim.hex(), "roles": roles} for claim, roles in arguments[2]]
        token.do("found domain", *arguments, by=token.people, region="eu-north", operators=operators)
    old_key = token.state.domain_keys[0].id

    # Operators and rules.
    dora = Party("Dora", ["auditor"])
    claim = dora.claim(domain)
    token.do("add operator", claim, dora.roles, by=[anna, ben], operator=claim.hex(), roles=dora.roles)
    dora = dora.rekeyed()
    claim = dora.claim(domain)
    token.do("re-key operator", claim, by=[ben, cleo], operator=claim.hex())
    alternatives = [[["auditor", 1], ["operator", 1]], [["officer", 2]]]
    rule = {"command": "rotate RSK", "alternatives": [{"auditor": 1, "operator": 1}, {"officer": 2}]}
    token.do("set rule", ["rotate RSK", alternatives], by=[anna, cleo], rule=rule)
    token.do("rotate RSK", by=[dora, anna])
    token.do("rotate RSK", by=[cleo, ben])

    # Users. Operators allow a PIN and never know one.
    request = {"code": "a code of 128 bits", "until": int(time.time()) + DAY}
    enrolment = [enrolment_hash(domain, request["code"].encode()), request["until"]]
    token.do("create user", 2, "otto", enrolment, by=[anna, ben], role={"named": "otto"}, **request)
    token.set_pin((2, "otto"), request)
    token.do("remove user", 2, "otto", by=[anna, ben], role={"named": "otto"})
    token.do("reset PIN", 1, None, enrolment, by=[anna, ben], role="user", **request)
    with pytest.raises(Error, match="CKR_TOKEN_WRITE_PROTECTED"):
        token.init_pin(NEW_PIN)
    token.set_pin((1, None), request)
    enrolment, request = [None, request["until"]], {"until": request["until"]}
    token.do("reset PIN", 1, None, enrolment, by=[cleo, ben], role="user", **request)
    before = token.state
    token.init_pin(PIN)
    assert token.check_step(before).name == "PIN set"
    token.logs_in()

    # Keys of the domain.
    token.do("rotate domain key", 7 * DAY, by=[anna], retain=7 * DAY)
    at = int(time.time()) + 30 * DAY
    token.do("schedule retirement", old_key, at, by=[ben], key=old_key.hex(), at=at)
    token.do("schedule retirement", old_key, None, by=[ben], key=old_key.hex())
    order = {"interval": 30 * DAY, "window": DAY, "retain": 90 * DAY, "until": at}
    token.do("standing order", list(order.values()), by=[anna, cleo], order=order)
    token.do("standing order", None, by=[anna, cleo], order=None)

    # What the domain allows and whom it trusts.
    limits = token.state.limits._replace(offer=61)
    token.do("set limits", limits, by=[anna, ben], limits={"offer": 61})
    token.do("allow suite", 2, True, by=[anna, ben], suite=2)
    token.do("allow suite", 2, False, by=[anna, ben], suite=2, allowed=False)
    region = {"name": "us-west", "domain": "33" * 16, "replication_keys": [spki(new_key()).hex()]}
    keys = [bytes.fromhex(each) for each in region["replication_keys"]]
    token.do("trust Region", ["us-west", b"3" * 16, keys], by=[anna, ben], region=region)
    token.do("distrust Region", "us-west", by=[cleo, ben], name="us-west")
    host = Party("web-1", party=HOST)
    claim = host.claim(domain)
    token.do("admit host", claim, by=[anna, ben], host=claim.hex())
    token.do("expel host", host.id, by=[anna, ben], id=host.id.hex())
    token.do("trust key", object_id, True, by=[anna, ben], object=object_id.hex())
    assert trusted(token, key)
    token.do("trust key", object_id, False, by=[anna, ben], object=object_id.hex(), trusted=False)
    assert not trusted(token, key)
    token.do("revoke key", bytes(16), 2, by=[anna, ben], object="00" * 16, generation=2)

    # Recovery sets, which are made anew when a holder leaves.
    holders = sorted(person.id for person in token.people)
    token.do("make recovery set", 2, holders, by=[anna, ben], threshold=2, operators=[each.hex() for each in holders])
    made = token.state.recovery
    token.do("remove operator", dora.id, by=[anna, ben], id=dora.id.hex())
    assert token.state.recovery == made
    token.do("remove operator", cleo.id, by=[anna, ben], id=cleo.id.hex())
    assert token.state.recovery != made and len(token.state.recovery.shares) == 2
    token.logs_in()

    history = token.history()
    assert [step.name for step in history.steps if step.name != "PIN set"][0] == "found domain"
    assert history.steps[-1].hash == token.state.hash()


def trusted(token, key):
    """CKA_TRUSTED, as the user sees it; the SO is logged in before and after."""
    token.session.logout()
    token.login(PIN, ck.CKU_USER)
    (found,) = token.session.find({ck.CKA_CLASS: ck.CKO_SECRET_KEY})
    value = token.session.get(found, ck.CKA_TRUSTED)
    token.session.logout()
    token.login()
    return value == b"\1"


@pytest.mark.embedded("it is about an embedded domain that becomes a fleet's")
def test_commands_of_a_fleet(module):
    token = Ceremony(module, "of a fleet").found()
    state = token.state
    hsm = Party("hsm-2", party=HSM)
    for sentence, name, *arguments in [
        ("the last member cannot be expelled", "expel HSM", state.members[0].id, None),
        ("the HSM is unknown", "expel HSM", hsm.id, None),
        ("recovery begins on an HSM that is not a member", "recover domain", hsm.claim(state.domain), state.version,
         state.hash()),
    ]:
        with refused(sentence):
            token.domain.execute(token.command(name, *arguments, by=[token.anna, token.ben]))
    assert token.state.encode() == state.encode()
    # An HSM is admitted to an embedded domain; the PINs still open it, and another member is to expel the embedded one.
    token.execute("admit HSM", hsm.claim(state.domain), by=[token.anna, token.ben])
    assert len(token.state.members) == 2 and token.state.embedded == state.members[0].id
    with refused("an HSM does not carry out its own expulsion"):
        token.domain.execute(token.command("expel HSM", state.members[0].id, None, by=[token.anna, token.ben]))
    token.logs_in()
    token.execute("expel HSM", hsm.id, None, by=[token.anna, token.ben])
    assert [member.id for member in token.state.members] == [token.state.embedded]


@pytest.mark.embedded("its fresh HSM is a process; test_fleet_recovery.py is about that of fleets")
def test_a_recovery(module):
    token = Ceremony(module, "recovery").found()
    holders = sorted(person.id for person in token.people)
    token.execute("make recovery set", 2, holders, by=[token.anna, token.ben])
    token.execute("rotate domain key", None, by=[token.anna])
    state = token.state
    pin = b"the next SO"
    claim = module.begin_recovery(token.slot, pin)
    hsm = claimed(claim, state.domain, HSM)
    command = token.command("recover domain", claim, state.version, state.hash(), by=[token.ben, token.cleo])
    contributions = [
        contribute(state.domain, state.recovery, person.id, person.agreement, command, hsm.agreement)
        for person in token.people
    ]
    with refused("1 shares of 2"):
        module.recover(token.slot, pin, command, contributions[1:2])
    with refused("1 shares of 2"):
        module.recover(token.slot, pin, command, [contributions[1]] * 2)
    token.session.close()
    module.recover(token.slot, pin, command, contributions[1:])

    token.open()
    for old, user in (SO_PIN, ck.CKU_SO), (PIN, ck.CKU_USER):
        with pytest.raises(Error):
            token.login(old, user)
    token.login(pin.decode())
    history = token.history()
    assert [step.name for step in history.steps[-2:]] == ["recover domain", "PIN set"]
    assert [(member.id, member.signing, member.agreement) for member in token.state.members] == [
        (hsm.id, hsm.signing, hsm.agreement)]


def test_a_history_verifies_from_bytes_alone(module):
    token = Ceremony(module, "history").found()
    token.execute("trust key", b"1" * 16, True, by=[token.anna, token.ben])
    token.execute("set rule", ["trust key", [[["officer", 1]]]], by=[token.ben, token.cleo])
    token.execute("trust key", b"2" * 16, True, by=[token.cleo])
    data = token.domain.history()
    history = History(data)
    assert history.steps[0].persons == ["Anna", "Ben", "Cleo"]
    assert [step.persons for step in history.steps[-3:]] == [["Anna", "Ben"], ["Ben", "Cleo"], ["Cleo"]]
    origin, entries, newest = decode(data)
    alterations = {
        "without the first": [origin, entries[1:], newest],
        "without the last": [origin, entries[:-1], newest],
        "two exchanged": [origin, [*entries[:-3], entries[-2], entries[-3], entries[-1]], newest],
        "one twice": [origin, [*entries[:2], *entries[1:]], newest],
        "older token": [origin, entries, origin],
        "another's token": [origin, entries, Ceremony(module, "another").found().domain.export_token()],
        "without the founding": [newest, [], origin],
    }
    for altered in alterations.values():
        with pytest.raises(Refused):
            History(encode(altered))
    for at in range(0, len(data), 67):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        with pytest.raises(Refused):
            History(bytes(changed))


def test_proposals_are_signed_by_several(module):
    """A proposal is kept by the module while one operator after the other signs his copy."""
    token = Ceremony(module, "signing").found()
    proposal = token.domain.propose({"command": "trust key", "object": "07" * 16})
    command = Command(proposal)
    for person in token.anna, token.ben:
        to_sign = token.domain.bytes_to_sign(proposal, spki(person.signing))
        assert to_sign == command.to_sign(person.kid)
        copy = Command(proposal).sign(person.signing)
        token.domain.put(copy.encode())
        command.merge(copy)
    (pending,) = token.domain.proposals()
    assert (pending["id"], pending["quorum_met"]) == (command.id().hex(), True)
    merged = token.domain.proposal(command.id())
    assert merged == command.encode()
    before = token.state
    token.domain.execute(merged)
    token.check_step(before)
    assert token.domain.proposals() == []
