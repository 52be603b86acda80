"""Commands: made, signed, merged, and verified against a state."""

import os
import time

from . import cose
from .change import ARGUMENTS
from .encoding import decode, encode, require, row, text, uint
from .identity import OPERATOR, claimed
from .keys import sha256, sign, spki, verify
from .rules import KEY_COMMANDS, check_key_quorum, check_quorum
from .state import Operator, digest, identifier

CONTENT_TYPE = "application/vnd.conclave.command"
HOUR = 3600


class Command:
    """What is proposed, with the signatures it has so far."""

    def __init__(self, data):
        self.payload, self.signatures = cose.open_signed(data, CONTENT_TYPE)
        head = decode(self.payload)
        require(type(head) is list and len(head) == 7, "a command has seven fields")
        arguments = ARGUMENTS.get(head[2] if type(head[2]) is str else None)
        require(arguments, "an unknown command")
        shape = row(identifier, digest, text, arguments, uint, uint, identifier)
        self.domain, self.governance, self.name, self.arguments, *rest = shape(head)
        self.not_before, self.not_after, self.nonce = rest

    @classmethod
    def make(cls, domain, governance, name, arguments, validity, nonce=None):
        """`validity` is (not before, not after)."""
        payload = [domain, governance, name, arguments, *validity, nonce or os.urandom(16)]
        return cls(cose.signed(CONTENT_TYPE, encode(payload), {}))

    @classmethod
    def of(cls, state, name, *arguments, not_before=None, valid_for=HOUR, nonce=None):
        """A command for a domain in this state, by default from now on."""
        begin = int(time.time()) if not_before is None else not_before
        return cls.make(state.domain, state.governance, name, list(arguments), (begin, begin + valid_for), nonce)

    def to_sign(self, kid):
        return cose.to_sign(CONTENT_TYPE, kid, self.domain, self.payload)

    def sign(self, *keys):
        """With the signatures of these keys; gives itself."""
        for key in keys:
            kid = sha256(spki(key))
            self.signatures[kid] = sign(key, self.to_sign(kid))
        return self

    def merge(self, other):
        """With the signatures of another copy."""
        require(self.payload == other.payload, "another command")
        self.signatures.update(other.signatures)
        return self

    def encode(self):
        return cose.signed(CONTENT_TYPE, self.payload, self.signatures)

    def id(self):
        return sha256(self.payload)

    def signed_by(self, operators):
        """Those of the operators whose signatures these are; every signature is one's."""
        signers = []
        for kid, signature in self.signatures.items():
            found = [operator for operator in operators if sha256(operator.signing) == kid]
            require(len(found) == 1, "unknown signer")
            verify(found[0].signing, self.to_sign(kid), signature)
            signers += found
        return signers

    def verify(self, state, at):
        """Refuses what the state's operators did not allow at this time; gives those who signed."""
        require(self.domain == state.domain, "the command is for another domain")
        require(self.governance == state.governance, "the command was made for another governance")
        require(0 <= self.not_after - self.not_before <= state.limits.proposal, "the validity is too long, or negative")
        require(self.not_before <= at, "the command is not valid yet")
        require(at <= self.not_after, "the command has expired")
        require(self.nonce not in state.nonces, "the command was executed before")
        founded = state.log_head is not None
        require(founded != (self.name == "found domain"), "the domain is founded, or not founded")
        if founded:
            signers = self.signed_by(state.operators)
            if self.name in KEY_COMMANDS:
                check_key_quorum(self.arguments[0][3], signers)
            else:
                check_quorum(state, self.name, signers)
            return signers
        founders = []
        for claim, roles in self.arguments[2]:
            identity = claimed(claim, state.domain, OPERATOR)
            founders.append(Operator(identity.id, identity.name, roles, identity.signing, identity.agreement))
        signers = self.signed_by(founders)
        require(len(signers) == len(founders), "quorum not met: every founding operator signs")
        return signers
