"""An independent reading of docs/protocols.md: `cbor2` encodes, `cryptography` computes.

It shares nothing with the module. It reads states and tokens, makes and verifies commands, and
computes what each entry of a log makes of the public state, so that a domain's history is verified
from its public file alone.
"""
