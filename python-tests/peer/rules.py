"""Which operators a command needs, counted by distinct persons."""

import itertools

from .encoding import require
from .keys import sha256

MAJORITY = 0
_GOVERNMENT = [[["officer", MAJORITY]]]
_BOTH = [[["officer", 1], ["operator", 1]]]
_OPERATOR = [[["operator", 1]]]
_OFFICERS = [[["officer", 2]]]

# Approved by a key's own operators.
KEY_COMMANDS = ("use key", "set dual control")
GOVERNING = ["add operator", "re-key operator", "remove operator", "set rule"]
DEFAULTS = {
    **dict.fromkeys(GOVERNING, _GOVERNMENT),
    **dict.fromkeys(["admit HSM", "expel HSM", "admit host", "expel host", "create user", "remove user", "reset PIN",
                     "revoke key"], _BOTH),
    **dict.fromkeys(["rotate domain key", "schedule retirement", "rotate RSK"], _OPERATOR),
    **dict.fromkeys(["allow suite", "distrust Region", "emergency promote", "give up replica",
                     "make recovery set", "recover domain", "set limits",
                     "standing order", "trust Region", "trust key"], _OFFICERS),
}


def founding_rules(given):
    """The rules of a new domain: `given` take the place of defaults."""
    given = dict(given)
    return [[command, given.get(command, DEFAULTS[command])] for command in sorted(DEFAULTS, key=str.encode)]


def check_form(rule):
    command, alternatives = rule
    require(command in DEFAULTS, "the rule is not one: there is no such command")
    require(alternatives, "the rule is not one: nobody would be needed")
    for role, minimum in itertools.chain(*alternatives):
        require(role and minimum <= 255, "the rule is not one: a role has no name, or a minimum is above 255")


def _persons(operators):
    """The roles of each person, those of all his keys together."""
    persons = {}
    for operator in operators:
        persons.setdefault(operator.person, set()).update(operator.roles)
    return persons


def _places(alternative, operators):
    """How many persons each role needs."""
    places = {}
    for role, minimum in alternative:
        if minimum == MAJORITY:
            holders = sum(role in roles for roles in _persons(operators).values())
            minimum = holders // 2 + 1 if holders > 3 else 2
        places[role] = minimum
    return places


def _filled(places, signers):
    """Hall's condition: any set of roles has at least as many persons as it needs."""
    persons = _persons(signers).values()
    for count in range(1, len(places) + 1):
        for some in itertools.combinations(places, count):
            if sum(not roles.isdisjoint(some) for roles in persons) < sum(places[role] for role in some):
                return False
    return True


def _alternatives(state, command):
    rules = dict(state.rules)
    return rules.get(command) or rules["set rule"]


def check_quorum(state, command, signers):
    """Refuses signers who are not enough for the command."""
    met = (_filled(_places(each, state.operators), signers) for each in _alternatives(state, command))
    require(any(met), f"quorum not met: {command}")


def check_key_quorum(control, signers):
    """Refuses signers who are not all of the key's operators, or not enough of them."""
    threshold, kids, _ = control
    require(all(sha256(signer.signing) in kids for signer in signers), "a signer is not one of the key's operators")
    persons = len({signer.person for signer in signers})
    require(persons and persons >= threshold, "quorum not met: the key's operators")


def check_rules(state):
    """Refuses a state that its operators could not change, or whose rules need more than that takes."""
    def strength(command):
        places = [_places(each, state.operators) for each in _alternatives(state, command)]
        met = [sum(each.values()) for each in places if _filled(each, state.operators)]
        require(met, f"locked out: {command}")
        return min(met)

    governing = min(strength(command) for command in GOVERNING)
    for command in DEFAULTS:
        enough = strength(command) <= governing or command in GOVERNING
        require(enough, f"{command} would need more persons than it takes to change the rules")
