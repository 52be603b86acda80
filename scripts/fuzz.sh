#!/usr/bin/env bash
# Random calls against the module for a time, the program under ASan and UBSan.
# usage: fuzz.sh SECONDS [SEED]. A failure names its seed; the same seed makes the same calls.
set -euo pipefail
cd "$(dirname "$0")/.."
module="${CONCLAVE_MODULE:-$PWD/target/release/libconclave.so}"
mkdir -p target/c-tests
clang -std=c99 -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -Wall -Wextra \
    -Wno-missing-field-initializers -Iinclude c-tests/fuzz.c -o target/c-tests/fuzz -pthread -ldl
ASAN_OPTIONS=detect_leaks=0 exec target/c-tests/fuzz "$module" "${1:-20}" ${2:+"$2"}
