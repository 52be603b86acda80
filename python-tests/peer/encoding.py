"""Deterministic CBOR, and the shapes of the CDDL.

A shape is a function that takes a decoded value and gives it back, as a record where it has named
fields, or refuses it. Records are named tuples, which encode as arrays.
"""

import cbor2


class Refused(Exception):
    """What the peer does not accept; the text says why."""


def require(holds, why):
    if not holds:
        raise Refused(why)


def encode(value):
    return cbor2.dumps(value, canonical=True)


def decode(data, shape=lambda value: value):
    """The value of this shape whose one encoding this is."""
    try:
        value = _plain(cbor2.loads(data))
        again = encode(value)
    except Exception as why:
        raise Refused(f"not CBOR: {why}") from why
    require(again == data, "not the deterministic encoding, or trailing bytes")
    return shape(value)


def _plain(value):
    """With lists and dicts for what `cbor2` makes immutable inside of tags."""
    if isinstance(value, cbor2.CBORTag):
        return cbor2.CBORTag(value.tag, _plain(value.value))
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "items"):
        return {key: _plain(item) for key, item in value.items()}
    return value


def uint(value):
    require(type(value) is int and 0 <= value < 2**64, "an unsigned integer was expected")
    return value


def boolean(value):
    require(type(value) is bool, "a boolean was expected")
    return value


def bstr(value):
    require(type(value) is bytes, "a byte string was expected")
    return value


def text(value):
    require(type(value) is str and len(value.encode()) <= 255, "a text of at most 255 bytes was expected")
    return value


def one_of(*values):
    def shape(value):
        require(any(type(value) is type(other) and value == other for other in values), f"one of {values} was expected")
        return value
    return shape


def octets(count):
    def shape(value):
        require(len(bstr(value)) == count, f"{count} bytes were expected")
        return value
    return shape


def optional(inner):
    return lambda value: None if value is None else inner(value)


def listed(item, least=0):
    """A list in any order."""
    def shape(value):
        require(type(value) is list and len(value) >= least, "a list was expected")
        return [item(each) for each in value]
    return shape


def ascending(item, key=lambda each: each[0], least=0):
    """A list that is strictly ascending by `key`."""
    def shape(value):
        items = listed(item, least)(value)
        keys = [key(each) for each in items]
        require(all(a < b for a, b in zip(keys, keys[1:])), "a list is not in order or has duplicates")
        return items
    return shape


def row(*items):
    """A list of exactly these."""
    def shape(value):
        require(type(value) is list and len(value) == len(items), f"a list of {len(items)} was expected")
        return [item(each) for item, each in zip(items, value)]
    return shape


def record(make, *items):
    """The same, as a named tuple."""
    inner = row(*items)
    return lambda value: make(*inner(value))


def mapped(key, item):
    def shape(value):
        require(type(value) is dict, "a map was expected")
        return {key(k): item(v) for k, v in value.items()}
    return shape


def fields(**items):
    """A map whose keys are 1, 2, ..., in this order; given as a dict by name."""
    def shape(value):
        require(type(value) is dict and list(value) == [*range(1, len(items) + 1)], "the fields are not those expected")
        return {name: item(each) for (name, item), each in zip(items.items(), value.values())}
    return shape
