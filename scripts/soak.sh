#!/usr/bin/env bash
# Many processes on one token for a time. usage: soak.sh SECONDS [PROCESSES]
set -euo pipefail
cd "$(dirname "$0")/.."
module="${CONCLAVE_MODULE:-$PWD/target/release/libconclave.so}"
mkdir -p target/c-tests
gcc -std=c99 -g -O1 -Wall -Wextra -Wno-missing-field-initializers -Iinclude c-tests/soak.c \
    -o target/c-tests/soak -pthread -ldl
exec target/c-tests/soak "$module" "${1:-10}" "${2:-8}"
