#!/usr/bin/env bash
# Measures replication between two Regions in two processes: keys per second by the size of an
# exchange, one exchange at a time and two, in both suites; many keys through the proxy; memory of
# each side. One line of JSON each.
# usage: run.sh [--smoke]: only show that it runs.
set -euo pipefail
cd "$(dirname "$0")/../.."
export CONCLAVE_MODULE="${CONCLAVE_MODULE:-$PWD/target/release/libconclave.so}"
scripts/venv.sh
exec target/venv/bin/python bench/replication/replication_bench.py "$@"
