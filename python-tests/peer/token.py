"""Domain tokens: a signed state with its secrets encrypted."""

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .cose import signed1, to_sign1
from .encoding import ascending, bstr, decode, encode, fields, listed, octets, optional, require, row, uint
from .keys import agree, hkdf, key_id, private_key, public, sha256, sha384, spki, verify
from .state import State

CONTENT_TYPE = "application/vnd.conclave.domain-token"
_wrapped = ascending(row(octets(32), octets(48)), least=1)
_payload = row(bstr, row(uint, public, _wrapped, bstr))
_scalar = octets(48)


class Token:
    """A domain token that a member named in it has signed."""

    def __init__(self, data):
        self.exporter, payload, protected, signature = signed1(data, CONTENT_TYPE)
        self.encoded, envelope = decode(payload, _payload)
        self.suite, self.ephemeral, self.wrapped, self.ciphertext = envelope
        self.state, self.hash = State(self.encoded), sha384(self.encoded)
        signers = [member for member in self.state.members if sha256(member.signing) == self.exporter]
        require(len(signers) == 1, "the signer is not a member")
        self.signer = signers[0].signing
        verify(self.signer, to_sign1(protected, self.state.domain, payload), signature)
        recipients = sorted(sha256(key) for key in self.state.recipient_keys())
        require([kid for kid, _ in self.wrapped] == recipients, "the secrets are for others than the state's recipients")

    def open(self, key):
        """The encoded secrets, for the holder of a recipient's private key."""
        state, recipient = self.state, spki(key)
        kid = sha256(recipient)
        transcript = [state.domain, state.region, state.version, self.hash]
        transcript += [self.exporter, kid, self.ephemeral, recipient]
        info = ["conclave/1", "domain-token", self.suite, sha384(encode(transcript))]
        wrapping = hkdf(agree(key, self.ephemeral), 44, info)
        content_key = AESGCM(wrapping[:32]).decrypt(wrapping[32:], dict(self.wrapped)[kid], None)
        content = hkdf(content_key, 44, ["conclave/1", "state-secrets", self.suite, self.hash])
        return AESGCM(content[:32]).decrypt(content[32:], self.ciphertext, None)

    def check_secrets(self, encoded):
        """That the secrets are those that the state commits to."""
        shape = fields(
            domain_keys=listed(octets(32)), index_key=octets(32), own=optional(row(_scalar, _scalar)),
            replication=listed(_scalar),
        )
        secrets, state = decode(encoded, shape), self.state
        ids = [key_id("domain key", key) for key in secrets["domain_keys"]]
        require(ids == [key.id for key in state.domain_keys], "a domain key is not the state's")
        require(key_id("index key", secrets["index_key"]) == state.index_key, "the index key is not the state's")
        own = secrets["own"] and tuple(spki(private_key(scalar)) for scalar in secrets["own"])
        embedded = state.embedded_member()
        require(own == (embedded and embedded[1:]), "the embedded member's keys are not the state's")
        replication = [spki(private_key(scalar)) for scalar in secrets["replication"]]
        require(replication == state.replication_keys, "a replication key is not the state's")
