#!/usr/bin/env bash
# The Python tests against the module that CONCLAVE_MODULE names, a process for each processor, each with
# a data directory of its own; arguments go to pytest ("-n 0" for all in one process).
set -euo pipefail
cd "$(dirname "$0")/.."
export CONCLAVE_MODULE="${CONCLAVE_MODULE:-$PWD/target/release/libconclave.so}"
scripts/venv.sh
exec target/venv/bin/python -m pytest -q -p no:cacheprovider -rfE --dist loadscope --no-loadscope-reorder \
    -n "$(nproc)" python-tests "$@"
