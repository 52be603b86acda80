#!/usr/bin/env bash
# Every check of the project, part by part. Two lanes of parts run side by side, since neither keeps two
# processors busy all the time; what a part says is shown when it is over. Goes on after a failed part;
# the last line is the sum of all parts, "N passed, M failed", and the exit status says the same.
set -uo pipefail
cd "$(dirname "$0")/.."
export AWS_LC_SYS_NO_JITTER_ENTROPY=1
export CONCLAVE_MODULE="${CONCLAVE_MODULE:-$PWD/target/release/libconclave.so}"
export CARGO_TERM_COLOR=never
logs=target/test-logs
rm -rf "$logs"
mkdir -p "$logs"

# part NAME COUNTER COMMAND...: runs the command and counts its tests. COUNTER says how: "status"
# (the command is one test), or "counted" (the output has lines such as "x: 3 passed, 0 failed",
# "test result: ok. 3 passed; 0 failed" or pytest's last line).
part() {
    local name=$1 counter=$2 log good bad status=0 start=$SECONDS
    shift 2
    log="$logs/${name// /-}.log"
    echo "$name" >>"$logs/begun"
    "$@" </dev/null >"$log" 2>&1 || status=$?
    read -r good bad < <(scripts/count.awk -v counter="$counter" -v status="$status" "$log")
    {
        flock 9
        echo "== $name"
        cat "$log"
        printf '%-24s %5d passed %4d failed %5d s\n' "$name" "$good" "$bad" $((SECONDS - start)) | tee -a "$logs/report"
    } 9>"$logs/lock"
}

# What the module is, and the programs that use it.
lane_release() {
    part "release build" status cargo build --release --locked
    touch "$logs/built"
    part "c-tests" counted scripts/c-tests.sh
    part "c-tests over a fleet" counted scripts/fleet.sh scripts/c-tests.sh
    part "c-tests over a fleet with PostgreSQL" counted env CONCLAVE_TEST_FLEET=postgres scripts/fleet.sh \
        scripts/c-tests.sh smoke governed
    part "fuzz smoke" counted scripts/fuzz.sh 20
    part "soak smoke" counted scripts/soak.sh 10
    part "demo" status scripts/demo.sh
    part "demo of a fleet" status scripts/demo-fleet.sh
    part "bench smoke" status scripts/bench.sh --smoke
}

# What Rust says about itself, then Python.
lane_dev() {
    part "format" status cargo fmt --check
    part "python packages" status scripts/venv.sh
    part "clippy" status cargo --config scripts/test.toml clippy --locked --all-targets -- -D warnings
    part "cargo test" counted cargo --config scripts/test.toml test --locked --no-fail-fast
    until [ -e "$logs/built" ]; do sleep 1; done
    part "python-tests" counted scripts/python-tests.sh
    part "python-tests over a fleet" counted env CONCLAVE_TEST_FLEET=sqlite scripts/python-tests.sh
    part "python-tests over a fleet with PostgreSQL" counted env CONCLAVE_TEST_FLEET=postgres \
        scripts/python-tests.sh -k "test_abi or test_managed"
}

part "packages" status scripts/apt.sh build-essential clang valgrind libp11-kit-dev p11-kit opensc softhsm2 \
    openssl faketime postgresql libengine-pkcs11-openssl gnutls-bin openssh-client openssh-server libnss3-tools \
    default-jdk-headless python3-venv
trap 'trap - INT TERM; kill 0' INT TERM
lane_release &
lane_dev &
wait

echo
echo "== summary ($((SECONDS / 60)) min $((SECONDS % 60)) s)"
cat "$logs/report"
grep -hE '(^|\| )FAILED |^test .* FAILED$' "$logs"/*.log | sort -u | head -60
# A part that began and did not come to its end is a failure.
read -r passed failed < <(awk -v begun="$(wc -l <"$logs/begun")" '
    { for (i = 2; i <= NF; i++) { if ($i == "passed") good += $(i - 1); if ($i == "failed") bad += $(i - 1) } }
    END { if (NR != begun) bad++; print good + 0, bad + 0 }' "$logs/report")
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
