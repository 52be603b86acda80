#!/usr/bin/env bash
# Measures the domain: commands, domain tokens, and sealing all keys anew. One line of JSON each.
# usage: run.sh [--smoke]: only show that it runs, without the measurements below the boundary.
set -euo pipefail
cd "$(dirname "$0")/../.."
module="${CONCLAVE_MODULE:-$PWD/target/release/libconclave.so}"
program=target/bench/domain_bench
mkdir -p target/bench
"${CC:-gcc}" -std=c99 -g -O2 -Wall -Wextra -Wno-missing-field-initializers -Iinclude -Ic-tests \
    bench/domain/domain_bench.c -o "$program" -pthread -ldl
if [[ " $* " == *" --smoke "* ]]; then
    exec "$program" "$module" 5 500 0.2
fi
cargo test --quiet --release --locked --lib -- --ignored --nocapture --test-threads=1 measure_ | grep -o '{.*}'
exec "$program" "$module" 100 100000 3 target/release/conclave
