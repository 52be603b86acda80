"""Shares of a recovery key, opened and combined."""

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .encoding import decode, encode, octets, one_of, row
from .keys import agree, hkdf, new_key, public, sha384, spki
from .state import identifier

ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)
_contribution = row(one_of(1), identifier, public, octets(64))


def _cipher(key, peer, label, transcript):
    """AES-256-GCM and its IV, from a one-pass agreement."""
    wrapping = hkdf(agree(key, peer), 44, ["conclave/1", label, 1, sha384(encode(transcript))])
    return AESGCM(wrapping[:32]), wrapping[32:]


def _unwrap(key, peer, label, transcript, sealed):
    """A share."""
    cipher, iv = _cipher(key, peer, label, transcript)
    return int.from_bytes(cipher.decrypt(iv, sealed, None), "big")


def _index(recovery, operator):
    return 1 + [holder for holder, _ in recovery.shares].index(operator)


def open_share(domain, recovery, operator, key):
    """(number, share) of the operator whose agreement key this is."""
    number = _index(recovery, operator)
    transcript = [domain, recovery.id, number, operator, recovery.ephemeral, spki(key), recovery.commitments[0]]
    return number, _unwrap(key, recovery.ephemeral, "recovery-share", transcript, recovery.shares[number - 1][1])


def open_contribution(domain, recovery, command, data, key):
    """(number, share) for the HSM whose agreement key this is; `command` is the whole message."""
    _, operator, ephemeral, sealed = decode(data, _contribution)
    number = _index(recovery, operator)
    transcript = [domain, recovery.id, sha384(command), number, ephemeral, spki(key)]
    return number, _unwrap(key, ephemeral, "recovery-contribution", transcript, sealed)


def contribute(domain, recovery, operator, key, command, hsm):
    """The operator's share, encrypted to the HSM with this agreement key."""
    number, share = open_share(domain, recovery, operator, key)
    ephemeral = new_key()
    transcript = [domain, recovery.id, sha384(command), number, spki(ephemeral), hsm]
    cipher, iv = _cipher(ephemeral, hsm, "recovery-contribution", transcript)
    return encode([1, operator, spki(ephemeral), cipher.encrypt(iv, share.to_bytes(48, "big"), None)])


def combine(shares):
    """The private half, from a dict of shares by number: the polynomial at 0, by Lagrange's formula."""
    total = 0
    for i, value in shares.items():
        for j in shares:
            if j != i:
                value = value * j * pow(j - i, -1, ORDER) % ORDER
        total = (total + value) % ORDER
    return total.to_bytes(48, "big")
