#!/usr/bin/env python3
"""The README's table of mechanisms, from C_GetMechanismList and C_GetMechanismInfo.

Prints README.md with the table made anew; with --write, writes it.
"""

import os
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "python-tests"))

from cryptoki import Module, ck  # noqa: E402

MODULE = os.environ.get("CONCLAVE_MODULE", ROOT / "target/release/libconclave.so")
BEGIN, END = "<!-- mechanisms -->\n", "<!-- /mechanisms -->"
FUNCTIONS = ("ENCRYPT", "DECRYPT", "DIGEST", "SIGN", "SIGN_RECOVER", "VERIFY", "VERIFY_RECOVER", "GENERATE",
             "GENERATE_KEY_PAIR", "WRAP", "UNWRAP", "DERIVE")


def table():
    """The table for the default configuration, in the order of the names."""
    with tempfile.TemporaryDirectory() as home:
        empty = pathlib.Path(home, "conclave.toml")
        empty.write_text("")
        os.environ.update({"CONCLAVE_HOME": f"{home}/data", "CONCLAVE_CONF": str(empty)})
        module = Module(MODULE)
        module.initialize()
        slot = module.slots()[0]
        rows = {ck.name("CKM_", kind): module.mechanism_info(slot, kind) for kind in module.mechanisms(slot)}
        module.finalize()
    lines = ["| mechanism | functions | key size |", "| --- | --- | --- |"]
    for name, info in sorted(rows.items()):
        smallest, largest = info.ulMinKeySize, info.ulMaxKeySize
        size = "" if not largest else str(largest) if smallest == largest else f"{smallest} to {largest}"
        functions = [word for word in FUNCTIONS if info.flags & getattr(ck, f"CKF_{word}")]
        lines.append(f"| `{name}` | {', '.join(functions).lower().replace('_', ' ')} | {size} |")
    return "\n".join(lines) + "\n"


def readme():
    text = (ROOT / "README.md").read_text()
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END, 1)[1]


if __name__ == "__main__":
    if "--write" in sys.argv:
        (ROOT / "README.md").write_text(readme())
    else:
        print(readme(), end="")
