#!/usr/bin/env bash
# Every check of the project, part by part. Goes on after a failed part; the last line is the sum
# of all parts, "N passed, M failed", and the exit status says the same.
set -uo pipefail
cd "$(dirname "$0")/.."
export AWS_LC_SYS_NO_JITTER_ENTROPY=1
export CONCLAVE_MODULE="${CONCLAVE_MODULE:-$PWD/target/release/libconclave.so}"
export CARGO_TERM_COLOR=never
logs=target/test-logs
mkdir -p "$logs"
passed=0
failed=0
report=""

# part NAME COUNTER COMMAND...: runs the command and counts its tests. COUNTER says how: "status"
# (the command is one test), or "counted" (the output has lines such as "x: 3 passed, 0 failed",
# "test result: ok. 3 passed; 0 failed" or pytest's last line).
part() {
    local name=$1 counter=$2 log good bad status start
    shift 2
    log="$logs/${name// /-}.log"
    start=$SECONDS
    echo "== $name"
    "$@" </dev/null 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    read -r good bad < <(scripts/count.awk -v counter="$counter" -v status="$status" "$log")
    passed=$((passed + good))
    failed=$((failed + bad))
    report+=$(printf '%-24s %5d passed %4d failed %5d s' "$name" "$good" "$bad" $((SECONDS - start)))$'\n'
}

part "packages" status scripts/apt.sh build-essential clang valgrind libp11-kit-dev p11-kit opensc softhsm2 \
    openssl faketime postgresql libengine-pkcs11-openssl gnutls-bin openssh-client openssh-server libnss3-tools \
    default-jdk-headless python3-venv
part "python packages" status scripts/venv.sh
part "format" status cargo fmt --check
part "release build" status cargo build --release --locked
part "clippy" status cargo clippy --locked --all-targets -- -D warnings
part "cargo test" counted cargo test --locked
part "c-tests" counted scripts/c-tests.sh
part "python-tests" counted scripts/python-tests.sh
part "fuzz smoke" counted scripts/fuzz.sh 20
part "soak smoke" counted scripts/soak.sh 10
part "demo" status scripts/demo.sh
part "bench smoke" status scripts/bench.sh --smoke

echo
echo "== summary ($((SECONDS / 60)) min $((SECONDS % 60)) s)"
printf '%s' "$report"
grep -hE '(^|\| )FAILED |^test .* FAILED$' "$logs"/*.log | sort -u | head -60
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
