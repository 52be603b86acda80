"""A fleet that the peer founds, keeps the history of, and is a host of."""

import os
import time

import cbor2
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .channel import Admin, Hosted, Stream, negotiate
from .command import Command
from .cose import A256GCM, ALG, COMMITMENT, CONTENT_TYPE, ENCRYPT0, KID, SALT
from .encoding import decode, encode
from .identity import HOST, Party
from .keys import hkdf
from .log import enrolment_hash
from .session import BRING, STATUS, Domain, Host
from .state import ACTIVE
from .token import Token

FOUND, LOGIN, SET_ENROLLED_PIN, CLAIM, EXECUTE = 47, 0, 14, 16, 12
COST = [19456, 2, 1]
SO, USER = [0], [1]


def seal(key, key_id, domain, kind, object_id, plaintext, generation=1):
    """A record sealed under a domain key."""
    salt = os.urandom(32)
    keys = hkdf(key, 76, [kind, domain.id], salt)
    protected = encode({ALG: A256GCM, CONTENT_TYPE: f"application/vnd.conclave.sealed.{kind}", KID: key_id, SALT: salt,
                        COMMITMENT: keys[44:]})
    aad = encode(["Encrypt0", protected, encode([key_id, domain.region, object_id, generation])])
    ciphertext = AESGCM(keys[:32]).encrypt(keys[32:44], plaintext, aad)
    return encode(cbor2.CBORTag(ENCRYPT0, [protected, {}, ciphertext]))


def sealer(key, key_id, domain):
    """What makes EKTs under a domain key."""
    def ekt(terms):
        object_id = os.urandom(16)
        return encode([object_id, seal(key, key_id, domain, "session", object_id, encode(terms))])
    return ekt


class Fleet:
    """HSMs are anything with `address` and `admin`. The first is there when the fleet is founded."""

    def __init__(self, first, label="fleet", region="eu-north"):
        self.hsms, self.people = [first], [Party(name, ["officer", "operator"]) for name in ("Anna", "Ben", "Cleo")]
        _, (_, self.origin), _ = Admin(first.admin).call(FOUND, label, "", b"", COST)
        self.newest, self.entries = self.origin, []
        state = self.state
        founders = [person.founder(state.domain) for person in self.people]
        self.execute("found domain", region, state.members, founders, [])

    @property
    def state(self):
        return Token(self.newest).state

    @property
    def domain(self):
        token = Token(self.newest)
        return Domain(token.state.domain, token.state.region, token.state.version, token.hash)

    @property
    def fingerprint(self):
        return Token(self.origin).hash.hex()

    def key_of(self, hsm):
        """A member's signing key."""
        (key,) = [member.signing for member in self.state.members if member.id == hsm]
        return key

    def host_key(self, process):
        (key,) = [host.signing for host in self.state.hosts if host.id == process.host]
        return key

    def active_key(self, secrets):
        """Id and bytes of the active domain key, from a member's opened secrets."""
        keys = dict(zip([key.id for key in self.state.domain_keys], decode(secrets)[1], strict=True))
        (active,) = [key.id for key in self.state.domain_keys if key.status == ACTIVE]
        return active, keys[active]

    def secrets(self, party):
        """What a member with these keys opens."""
        return Token(self.newest).open(party.agreement)

    # The quorum

    def take(self, change, bring=True):
        """Commits a change."""
        (_, self.newest), entries, pins = change[0], change[1], change[2]
        self.entries += entries
        for hsm in self.hsms if bring else ():
            self.bring(hsm)
        return pins

    def execute(self, name, *arguments, bring=True):
        people = self.people if name == "found domain" else self.people[:2]
        command = Command.of(self.state, name, *arguments).sign(*[person.signing for person in people])
        _, change = Admin(self.hsms[0].admin).call(EXECUTE, command.encode(), [])
        return self.take(change, bring)

    def bring(self, hsm):
        """Carries the history to an HSM."""
        first = Token(self.origin).state.version
        with Stream(hsm.address) as stream:
            after = max(first, stream.clear(STATUS)[4])
            return stream.clear(BRING, self.origin, self.newest, after, self.entries[after - first:])

    def admit(self, hsm):
        """A fresh HSM becomes a member."""
        self.bring(hsm)
        _, claim, _ = Admin(hsm.admin).call(CLAIM, b"", COST)
        self.hsms.append(hsm)
        self.execute("admit HSM", claim)

    # Hosts

    def admit_host(self, name):
        party = Party(name, party=HOST)
        self.execute("admit host", party.claim(self.state.domain))
        return Host(party.signing, party.id)

    def negotiate(self, process, hsm, **how):
        begun, kept = process.begin(self.domain, hsm.id, **how)
        return process.finish(self.domain, kept, negotiate(hsm.address, begun), self.key_of(hsm.id))

    def connect(self, process, hsm, session=None, **how):
        session = session or self.negotiate(process, hsm)
        return Hosted(hsm.address, process, session, self.domain, hsm.id, **how)

    def serves(self, process, hsm):
        """That an HSM serves an honest host."""
        with self.connect(process, hsm) as connection:
            return connection.ping()

    def make_user(self, process, hsm, pin, name=None):
        """A user with a PIN; its PIN record."""
        code = os.urandom(8).hex().encode()
        role = [1, None] if name is None else [2, name]
        until = int(time.time()) + 3600
        self.execute("create user", *role, [enrolment_hash(self.state.domain, code), until])
        with self.connect(process, hsm) as connection:
            _, change = connection.call(SET_ENROLLED_PIN, role[:1] if name is None else role, code, pin, COST)
        (record,) = self.take(change)
        return record
