"""What each command makes of the public state."""

import re
from bisect import insort

from . import rules
from .encoding import ascending, boolean, bstr, listed, octets, one_of, optional, require, row, text, uint
from .identity import HOST, HSM, OPERATOR, claimed
from .state import (
    ACTIVE, DECRYPT_ONLY, DomainKey, Host, Member, Operator, Recipient, User, digest, enrolment, identifier, limits,
    member, role, rule, standing_order, trusted_region,
)

LONGEST_ENROLMENT = 30 * 24 * 3600
LONGEST_LIMIT = 366 * 24 * 3600
SHORTEST_RETENTION = 3600


def _role_and(*more):
    """A role, which is two items, and more items."""
    def shape(value):
        number, name, *rest = row(one_of(0, 1, 2), optional(text), *more)(value)
        return [role([number, name]), *rest]
    return shape


def _multi_region_id(value):
    require(re.fullmatch("mrk-[0-9a-f]{32}", text(value)), "not the id of a multi-Region key")
    return value


_roles = listed(text)
# Threshold, operators' kids, revision.
_control = row(uint, ascending(octets(32), lambda each: each), uint)
# Object, key id, label, dual control.
_controlled = row(octets(16), text, text, _control)
_region_keys = ascending(_multi_region_id, lambda each: each, least=1)
ARGUMENTS = {
    "found domain": row(text, listed(member, least=1), listed(row(bstr, _roles)), listed(rule)),
    "add operator": row(bstr, _roles),
    "remove operator": row(identifier),
    "re-key operator": row(bstr),
    "set rule": row(rule),
    "admit HSM": row(bstr),
    "expel HSM": row(identifier, optional(uint)),
    "admit host": row(bstr),
    "expel host": row(identifier),
    "create user": _role_and(enrolment),
    "remove user": _role_and(),
    "reset PIN": _role_and(enrolment),
    "rotate domain key": row(optional(uint)),
    "schedule retirement": row(identifier, optional(uint)),
    "rotate RSK": row(),
    "standing order": row(optional(standing_order)),
    "set limits": row(limits),
    "allow suite": row(uint, boolean),
    "trust Region": row(trusted_region),
    "distrust Region": row(text),
    "trust key": row(octets(16), boolean),
    "revoke key": row(octets(16), uint),
    "make recovery set": row(uint, ascending(identifier, lambda each: each)),
    "recover domain": row(bstr, uint, digest),
    "give up replica": row(_region_keys, text),
    "emergency promote": row(_region_keys, text),
    "use key": row(_controlled, row(text, optional(octets(32)), identifier, uint)),
    "set dual control": row(_controlled, _control),
}


def apply(old, name, arguments, at, results):
    """The state after a command, but for what every entry sets."""
    domain_key, replication_key, recovery = results
    require(name in _EFFECTS, "the command is about a key")
    _check_results(old, name, arguments, results)
    state = old.copy()
    _EFFECTS[name](state, at, *arguments)
    if domain_key is not None:
        retain = {"rotate domain key": 0, "expel HSM": 1}.get(name)
        rotate(state, domain_key, at, None if retain is None else arguments[retain])
    if replication_key is not None:
        require(replication_key not in state.keys(), "the replication key is in use")
        state.replication_keys = [*state.replication_keys[-1:], replication_key]
    if recovery is not None:
        state.recovery = recovery
        state.recipients = [Recipient(recovery.id, recovery.commitments[0])]
    state.governance = state.governed()
    rules.check_rules(state)
    state.check()
    return state


def needs(old, name, arguments):
    """What an HSM has to make for a command: whether a domain key, whether a replication key, and the
    threshold and holders of a recovery set, or None."""
    leaves = name in ("expel HSM", "recover domain")
    keys = leaves or name in ("found domain", "rotate domain key"), leaves or name == "rotate RSK"
    held = [each[0] for each in old.recovery.shares] if old.recovery else []
    if name == "make recovery set":
        threshold, holders = arguments
    elif leaves and held:
        threshold, holders = len(old.recovery.commitments), held
    elif name == "remove operator" and arguments[0] in held:
        threshold, holders = len(old.recovery.commitments), [each for each in held if each != arguments[0]]
    elif name == "re-key operator" and claimed(arguments[0], old.domain, OPERATOR).id in held:
        threshold, holders = len(old.recovery.commitments), held
    else:
        return *keys, None
    persons = {_known(old.operators, holder, "the operator").person for holder in holders}
    require(len(persons) == len(holders), "one person would hold two shares")
    require(2 <= threshold <= len(holders), "too few hold a share")
    return *keys, (threshold, holders)


def _check_results(old, name, arguments, results):
    """Exactly those are there that the command needs."""
    domain_key, replication_key, recovery = results
    *keys, sharing = needs(old, name, arguments)
    require([domain_key is not None, replication_key is not None] == keys, "a key is missing or too much")
    made = recovery and (len(recovery.commitments), [each[0] for each in recovery.shares])
    require(made == sharing, "the recovery set is not the one that is needed")


def rotate(state, key, at, retain):
    """Makes `key` the active one."""
    require(key not in [each.id for each in state.domain_keys], "the domain key exists already")
    _check_retention(retain)
    deadline = None if retain is None else uint(at + retain)
    keys = [k._replace(status=DECRYPT_ONLY, retires=deadline) if k.status == ACTIVE else k for k in state.domain_keys]
    state.domain_keys = sorted([*keys, DomainKey(key, ACTIVE, at, None, state.region)])


def _check_retention(retain):
    require(retain is None or retain >= SHORTEST_RETENTION, "an old domain key decrypts for an hour at least")


def set_user(state, user):
    others = [other for other in state.users if other[:2] != user[:2]]
    state.users = sorted([*others, user], key=lambda user: (user.role, (user.name or "").encode()))


def _known(items, identifier, what):
    found = [item for item in items if item[0] == identifier]
    require(found, f"{what} is unknown")
    return found[0]


def _insert(items, item, what):
    require(all(other[0] != item[0] for other in items), f"{what} exists already")
    insort(items, item, key=lambda each: each[0])


def _new_keys(state, *keys):
    require(len(set(keys)) == len(keys) and not set(keys) & set(state.keys()), "the key is in use already")


def _add_operator(state, at, claim, roles):
    found = claimed(claim, state.domain, OPERATOR)
    require(found.name, "an operator is a person with a name")
    require(roles and all(roles) and roles == sorted(set(roles), key=str.encode), "roles are missing or not in order")
    _new_keys(state, found.signing, found.agreement)
    _insert(state.operators, Operator(found.id, found.name, roles, found.signing, found.agreement), "the operator")


def _remove_operator(state, at, operator):
    state.operators.remove(_known(state.operators, operator, "the operator"))


def _rekey_operator(state, at, claim):
    found = claimed(claim, state.domain, OPERATOR)
    held = _known(state.operators, found.id, "the operator")
    require(found.name == held.person, "new keys are for the same person")
    _new_keys(state, found.signing, found.agreement)
    state.operators.remove(held)
    _add_operator(state, at, claim, held.roles)


def _found(state, at, region, members, operators, given):
    require(region and not region.startswith("local-"), "the Region needs a name of its own")
    require(members == state.members, "they name other HSMs than the domain has")
    state.region = region
    for claim, roles in operators:
        _add_operator(state, at, claim, roles)
    commands = [command for command, _ in given]
    require(commands == sorted(set(commands), key=str.encode), "rules are not in order")
    for each in given:
        rules.check_form(each)
    state.rules = rules.founding_rules(given)


def _set_rule(state, at, new):
    rules.check_form(new)
    others = [each for each in state.rules if each[0] != new[0]]
    state.rules = sorted([*others, new], key=lambda each: each[0].encode())


def _admit_hsm(state, at, claim):
    found = claimed(claim, state.domain, HSM)
    _new_keys(state, found.signing, found.agreement)
    _insert(state.members, Member(found.id, found.signing, found.agreement), "the HSM")


def _expel_hsm(state, at, hsm, retain):
    state.members.remove(_known(state.members, hsm, "the HSM"))
    require(state.members, "the last member cannot be expelled")
    state.embedded = None if state.embedded == hsm else state.embedded
    state.replication_keys = []


def _admit_host(state, at, claim):
    found = claimed(claim, state.domain, HOST)
    _new_keys(state, found.signing)
    _insert(state.hosts, Host(found.id, found.name, found.signing), "the host")


def _expel_host(state, at, host):
    state.hosts.remove(_known(state.hosts, host, "the host"))


def _check_enrolment(enrolment, at):
    require(at <= enrolment[1] <= at + LONGEST_ENROLMENT, "the time to set the PIN in has passed or is too long")


def _create_user(state, at, role, enrolment):
    require(role[1] != "", "a user has a name")
    require(state.user(role) is None, "the user exists already")
    _check_enrolment(enrolment, at)
    set_user(state, User(*role, 1, None, enrolment))


def _remove_user(state, at, role):
    require(role != (0, None) and state.user(role), "the user is unknown, or the SO")
    state.users.remove(state.user(role))


def _reset_pin(state, at, role, enrolment):
    require(state.user(role), "the user is unknown")
    _check_enrolment(enrolment, at)
    set_user(state, User(*role, state.user(role).generation + 1, None, enrolment))


def _schedule_retirement(state, at, key, deadline):
    held = _known(state.domain_keys, key, "the domain key")
    require(held.status == DECRYPT_ONLY, "the active domain key is rotated first")
    require(deadline is None or deadline >= at, "the deadline has passed")
    state.domain_keys[state.domain_keys.index(held)] = held._replace(retires=deadline)


def _standing_order(state, at, order):
    if order:
        require(0 <= order.window < order.interval and order.until > at, "the interval, window or end makes no sense")
        _check_retention(order.retain)
    state.standing_order = order


def _set_limits(state, at, new):
    require(all(0 < each <= LONGEST_LIMIT for each in new) and new.proposal >= 3600, "a lifetime is out of bounds")
    state.limits = new


def _allow_suite(state, at, suite, allowed):
    require(suite in (1, 2) and (suite in state.suites) != allowed, "the suite is unknown, or so already")
    require(allowed or suite != 1, "domain tokens need the suite")
    state.suites = sorted({*state.suites, suite} if allowed else {*state.suites} - {suite})


def _trust_region(state, at, region):
    name, domain, keys = region
    require(name not in ("", state.region) and domain != state.domain and keys, "a Region does not trust itself")
    others = [each for each in state.trusted_regions if each[0] != name]
    state.trusted_regions = sorted([*others, region], key=lambda each: each[0].encode())


def _distrust_region(state, at, name):
    state.trusted_regions.remove(_known(state.trusted_regions, name, "the Region"))


def _give_up_replica(state, at, keys, region):
    require(region not in ("", state.region), "another Region has the replicas that are given up")


def _emergency_promote(state, at, keys, region):
    if region != state.region:
        _known(state.trusted_regions, region, "the Region")


def _trust_key(state, at, key, trusted):
    require((key in state.trusted_keys) != trusted, "the key is trusted or not so already")
    state.trusted_keys = sorted({*state.trusted_keys, key} if trusted else {*state.trusted_keys} - {key})


def _revoke_key(state, at, key, generation):
    require(generation > state.revoked.get(key, 0), "that generation is refused already")
    state.revoked[key] = generation


def _recover(state, at, claim, version, named):
    require((state.version, state.hash()) == (version, named), "the recovery names another version or state")
    found = claimed(claim, state.domain, HSM)
    _new_keys(state, found.signing, found.agreement)
    state.members = [Member(found.id, found.signing, found.agreement)]
    state.replication_keys = []
    # Nobody has a PIN; the SO of an embedded domain may set one.
    enrolment = [None, at + 3600] if state.embedded else None
    state.embedded = found.id if state.embedded else None
    state.users = [
        User(user.role, user.name, user.generation + 1, None, enrolment if user.role == 0 else None)
        for user in state.users
    ]


def _nothing(state, at, *_):
    """What changes is what the HSM made."""


_EFFECTS = {
    "found domain": _found,
    "add operator": _add_operator,
    "remove operator": _remove_operator,
    "re-key operator": _rekey_operator,
    "set rule": _set_rule,
    "admit HSM": _admit_hsm,
    "expel HSM": _expel_hsm,
    "admit host": _admit_host,
    "expel host": _expel_host,
    "create user": _create_user,
    "remove user": _remove_user,
    "reset PIN": _reset_pin,
    "rotate domain key": _nothing,
    "schedule retirement": _schedule_retirement,
    "rotate RSK": _nothing,
    "standing order": _standing_order,
    "set limits": _set_limits,
    "allow suite": _allow_suite,
    "trust Region": _trust_region,
    "distrust Region": _distrust_region,
    "trust key": _trust_key,
    "revoke key": _revoke_key,
    "make recovery set": _nothing,
    "recover domain": _recover,
    "give up replica": _give_up_replica,
    "emergency promote": _emergency_promote,
}
