"""A domain that the peer itself has: a member that makes its first state, executes commands and exports tokens."""

import os
import time

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from . import cose
from .change import needs
from .command import Command
from .encoding import encode
from .identity import HSM, Party
from .keys import agree, hkdf, key_id, new_key, sha256, sha384, spki
from .log import COMMAND, follow
from .session import Domain, Terms, seal_ekt
from .state import ACTIVE, State
from .token import CONTENT_TYPE

LIMITS = [3600, 60, 900, 600, 7 * 24 * 3600, 24 * 3600]


def scalar(key):
    return key.private_numbers().private_value.to_bytes(48, "big")


class Member:
    """The first member of a fleet's domain, with all of its secrets, its log and its newest token."""

    def __init__(self, label, operators, region="eu-north"):
        """Founded by these operators, each of whom signs."""
        self.own, self.operators = Party("peer", party=HSM), operators
        self.domain_keys, self.index_key, self.replication = {}, os.urandom(32), [new_key()]
        first, now, domain = self._new_key(), int(time.time()), os.urandom(16)
        identity = self.own.identity()
        suites = [1]
        fields = [
            domain, label, "local-fleet", "local", domain[:8].hex(), 1, None,
            sha384(encode([[], [], [], LIMITS, suites])), None,
            [[identity.id, identity.signing, identity.agreement]], [], [], [], [], [],
            [[first, ACTIVE, now, None, "local-fleet"]], key_id("index key", self.index_key),
            [spki(key) for key in self.replication], [], {}, {}, LIMITS, suites, now, None, [], None, None,
        ]
        self.state = State(encode(dict(enumerate(fields, 1))))
        self.origin = self.newest = self._export()
        self.entries = []
        members = [list(member) for member in self.state.members]
        self.execute("found domain", region, members, [each.founder(domain) for each in operators], [])

    def _new_key(self):
        key = os.urandom(32)
        self.domain_keys[key_id("domain key", key)] = key
        return key_id("domain key", key)

    @property
    def domain(self):
        """As sessions need it."""
        return Domain(self.state.domain, self.state.region, self.state.version, self.state.hash())

    def execute(self, name, *arguments):
        """A command that all operators sign."""
        command = Command.of(self.state, name, *arguments).sign(*[each.signing for each in self.operators])
        domain_key, replication_key, _ = needs(self.state, name, list(arguments))
        if replication_key:
            self.replication = [*self.replication[-1:], new_key()]
        made = [self._new_key() if domain_key else None, spki(self.replication[-1]) if replication_key else None, None]
        entry = encode([COMMAND, int(time.time()), command.encode(), made])
        self.state, _ = follow(self.state, entry)
        self.entries.append(entry)
        self.newest = self._export()

    def _export(self):
        """The domain token of the state."""
        state, encoded = self.state, self.state.encode()
        state_hash, ephemeral, content_key = sha384(encoded), new_key(), os.urandom(32)
        secrets = encode({1: [self.domain_keys[key.id] for key in state.domain_keys], 2: self.index_key, 3: None,
                          4: [scalar(key) for key in self.replication]})
        wrapped = []
        for recipient in state.recipient_keys():
            kid = sha256(recipient)
            transcript = [state.domain, state.region, state.version, state_hash, self.own.kid, kid, spki(ephemeral),
                          recipient]
            info = ["conclave/1", "domain-token", 1, sha384(encode(transcript))]
            keys = hkdf(agree(ephemeral, recipient), 44, info)
            wrapped.append([kid, AESGCM(keys[:32]).encrypt(keys[32:], content_key, None)])
        keys = hkdf(content_key, 44, ["conclave/1", "state-secrets", 1, state_hash])
        ciphertext = AESGCM(keys[:32]).encrypt(keys[32:], secrets, None)
        payload = encode([encoded, [1, spki(ephemeral), sorted(wrapped), ciphertext]])
        return cose.sign1(self.own.signing, CONTENT_TYPE, state.domain, payload)

    def history_after(self, version):
        """What `bring` carries to an HSM with this version, 0 for none."""
        after = max(version, 1)
        return self.origin, self.newest, after, self.entries[after - 1:]

    def issue(self, host, process, suite=1, lifetime=600):
        """A session of this host process, as if it had been negotiated here: its key and its EKT."""
        sk, now = os.urandom(32), int(time.time())
        terms = Terms(suite, sk, host, process, self.own.id, now, now + lifetime)
        (active,) = [key for key in self.state.domain_keys if key.status == ACTIVE]
        return terms, seal_ekt(self.domain_keys[active.id], self.state.domain, active.region, terms)
