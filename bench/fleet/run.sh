#!/usr/bin/env bash
# Measures a fleet over loopback: what a remote operation adds to one in process, operations per second by
# threads and by HSMs, handshakes per second, the cost of an idle connection. One line of JSON each.
# usage: run.sh [--smoke]: only show that it runs.
set -euo pipefail
cd "$(dirname "$0")/../.."
export CONCLAVE_MODULE="${CONCLAVE_MODULE:-$PWD/target/release/libconclave.so}"
scripts/venv.sh
exec target/venv/bin/python bench/fleet/fleet_bench.py "$@"
