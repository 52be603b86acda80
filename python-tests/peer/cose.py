"""COSE messages (RFC 9052) with the headers that are in use."""

import cbor2

from .encoding import bstr, decode, encode, listed, octets, one_of, require, row
from .keys import sha256, sign, spki

A256GCM, HMAC_384, ESP384 = 3, 6, -51
ALG, CONTENT_TYPE, KID, SALT, COMMITMENT, PARAMETERS = 1, 3, 4, -20, -65537, -65538
ENCRYPT0, MAC0, SIGN1, SIGN = 16, 17, 18, 98


def _tagged(data, tag, *items):
    tagged = decode(data)
    require(isinstance(tagged, cbor2.CBORTag) and tagged.tag == tag, "another kind of message was expected")
    return row(*items)(tagged.value)


def header(protected, names):
    """The protected header, which has exactly these names."""
    value = decode(protected)
    require(type(value) is dict and all(type(name) is int for name in value), "a header is not one")
    require(set(value) == set(names), "the headers are not those of this message")
    return value


def message(data, tag, names):
    """The protected header, its bytes and the rest of a message with `names` beside the usual two."""
    parts = 1 if tag == ENCRYPT0 else 2
    protected, _, *rest = _tagged(data, tag, bstr, one_of({}), *[bstr] * parts)
    return header(protected, {ALG, CONTENT_TYPE, *names}), protected, rest


def to_sign1(protected, aad, payload):
    return encode(["Signature1", protected, aad, payload])


def sign1(key, content_type, aad, payload):
    protected = encode({ALG: ESP384, CONTENT_TYPE: content_type, KID: sha256(spki(key))})
    signature = sign(key, to_sign1(protected, aad, payload))
    return encode(cbor2.CBORTag(SIGN1, [protected, {}, payload, signature]))


def signed1(data, content_type):
    """Kid, payload, protected header and signature of a message with one signature."""
    found, protected, (payload, signature) = message(data, SIGN1, {KID})
    require(found[ALG] == ESP384 and found[CONTENT_TYPE] == content_type, "the headers are not those of this message")
    return octets(32)(found[KID]), payload, protected, signature


def body_header(content_type):
    return encode({CONTENT_TYPE: content_type})


def signer_header(kid):
    return encode({ALG: ESP384, KID: kid})


def to_sign(content_type, kid, aad, payload):
    """What the holder of `kid` signs of a message with many signatures."""
    return encode(["Signature", body_header(content_type), signer_header(kid), aad, payload])


def signed(content_type, payload, signatures):
    """A message with many signatures, a dict from kid to signature."""
    rows = [[signer_header(kid), {}, signature] for kid, signature in sorted(signatures.items())]
    return encode(cbor2.CBORTag(SIGN, [body_header(content_type), {}, payload, rows]))


def open_signed(data, content_type):
    """Payload and signatures; the signatures are not verified."""
    signature = row(bstr, one_of({}), octets(96))
    protected, _, payload, rows = _tagged(data, SIGN, bstr, one_of({}), bstr, listed(signature))
    require(protected == body_header(content_type), "the headers are not those of this message")
    kids = [octets(32)(header(each, {ALG, KID})[KID]) for each, _, _ in rows]
    require([each for each, _, _ in rows] == [signer_header(kid) for kid in kids], "a signature is not with ESP384")
    require(all(a < b for a, b in zip(kids, kids[1:])), "the signatures are not in order, or a signer appears twice")
    return payload, {kid: each[2] for kid, each in zip(kids, rows)}
