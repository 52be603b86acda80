#!/usr/bin/env bash
# Measures managed keys: envelopes, data keys, the audit log's cost, many keys, many rotations. One
# line of JSON each.
# usage: run.sh [--smoke]: only show that it runs.
set -euo pipefail
cd "$(dirname "$0")/../.."
module="${CONCLAVE_MODULE:-$PWD/target/release/libconclave.so}"
program=target/bench/managed_bench
mkdir -p target/bench
"${CC:-gcc}" -std=c99 -g -O2 -Wall -Wextra -Wno-missing-field-initializers -Iinclude -Ic-tests \
    bench/managed/managed_bench.c -o "$program" -pthread -ldl
if [[ " $* " == *" --smoke "* ]]; then
    exec "$program" "$module" 0.2 200 20
fi
exec "$program" "$module" 4 100000 10000
