#!/usr/bin/env bash
# Runs a command with CONCLAVE_TEST_FOUNDER set: the tokens that C tests make are then those of fleets.
# usage: fleet.sh COMMAND...
# With CONCLAVE_TEST_FLEET=postgres their stores are in a PostgreSQL of the tests' own, else in SQLite.
set -euo pipefail
cd "$(dirname "$0")/.."
export CONCLAVE_MODULE="${CONCLAVE_MODULE:-$PWD/target/release/libconclave.so}"
scripts/venv.sh
dir=$(mktemp -d /tmp/conclave-founder-XXXXXX)
target/venv/bin/python python-tests/fleet.py serve "$dir/socket" $([ "${CONCLAVE_TEST_FLEET:-}" != postgres ] || echo postgres) &
founder=$!
trap 'kill "$founder" 2>/dev/null || true; wait "$founder" 2>/dev/null || true; rm -rf "$dir"' EXIT
for _ in $(seq 100); do
    [ ! -S "$dir/socket" ] || break
    sleep 0.05
done
CONCLAVE_TEST_FOUNDER="$dir/socket" "$@"
