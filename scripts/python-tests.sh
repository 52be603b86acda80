#!/usr/bin/env bash
# The Python tests against the module that CONCLAVE_MODULE names; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
export CONCLAVE_MODULE="${CONCLAVE_MODULE:-$PWD/target/release/libconclave.so}"
scripts/venv.sh
exec target/venv/bin/python -m pytest -q -p no:cacheprovider -rfE python-tests "$@"
