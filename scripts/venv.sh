#!/usr/bin/env bash
# A Python environment with the test packages in target/venv.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=target/venv
stamp=$venv/.installed
if [ -f "$stamp" ] && cmp -s python-tests/requirements.txt "$stamp"; then
    exit 0
fi
rm -rf "$venv"
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check -r python-tests/requirements.txt
cp python-tests/requirements.txt "$stamp"
