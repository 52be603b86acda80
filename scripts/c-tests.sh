#!/usr/bin/env bash
# Builds the programs of c-tests in each way and runs them against the module that CONCLAVE_MODULE
# names: gcc, clang, clang with ASan and UBSan, and some under valgrind and helgrind.
# usage: c-tests.sh [NAME...]: only these programs.
# With CONCLAVE_TEST_FOUNDER (scripts/fleet.sh) their tokens are those of fleets, and they run once each.
set -euo pipefail
cd "$(dirname "$0")/.."
module="${CONCLAVE_MODULE:-$PWD/target/release/libconclave.so}"
[ -f "$module" ] || { echo "c-tests.sh: no module at $module; run make build" >&2; exit 1; }
out=target/c-tests
mkdir -p "$out"

programs=(smoke robust lengths attacks pins threads lifecycle fork processes domain governed authenticated_wrap managed replication)
founder=${CONCLAVE_TEST_FOUNDER:-}
[ $# -eq 0 ] || programs=("$@")
wanted() { [[ " ${programs[*]} " == *" $1 "* ]]; }

flags="-std=c99 -g -O1 -Wall -Wextra -Wno-missing-field-initializers -Werror -Iinclude"
sanitizers="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"

# One line per compilation; all of clang's warnings come with ASan's, too.
for program in "${programs[@]}"; do
    echo "gcc $flags c-tests/$program.c -o $out/$program-gcc -pthread -ldl"
    [ -z "$founder" ] || continue
    echo "clang $flags $sanitizers c-tests/$program.c -o $out/$program-asan -pthread -ldl"
    [ "$program" != smoke ] || echo "clang $flags c-tests/$program.c -o $out/$program-clang -pthread -ldl"
done | xargs -d '\n' -P "$(nproc)" -I LINE bash -c LINE

gcc -shared -fPIC c-tests/linger.c -o "$out/linger.so"
export TEST_LINGER="$PWD/$out/linger.so"

# One line per run: WAY PROGRAM SLOWNESS COMMAND... What takes longest comes first.
plan="$out/plan"
if [ -n "$founder" ]; then
    for program in "${programs[@]}"; do echo "gcc $program 2 $out/$program-gcc"; done >"$plan"
else
    {
        ! wanted threads || echo "helgrind threads 60 valgrind --quiet --tool=helgrind --history-level=approx" \
            "--error-exitcode=99 --suppressions=c-tests/helgrind.supp $out/threads-gcc"
        for program in domain managed lengths smoke; do
            ! wanted $program || echo "valgrind $program 20 valgrind --quiet --error-exitcode=99 --leak-check=no $out/$program-gcc"
        done
        for program in "${programs[@]}"; do
            echo "asan $program 2 $out/$program-asan"
            echo "gcc $program 1 $out/$program-gcc"
        done
        ! wanted smoke || echo "clang smoke 1 $out/smoke-clang"
    } >"$plan"
fi

run_one() {
    read -r way program slow command <<<"$1"
    local log="$out/$program-$way.log" status=0 start=$SECONDS line
    # detect_leaks: what a library keeps until the process ends is no leak of the test.
    # shellcheck disable=SC2086
    TEST_SLOWNESS=$slow ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
        $command "$module" >"$log" 2>&1 </dev/null || status=$?
    line=$(grep -E "^$program.*: [0-9]+ passed, [0-9]+ failed$" "$log" | tail -1 || true)
    if [ -z "$line" ]; then
        line="$program: 0 passed, 1 failed"
        echo "FAILED $program ($way): ended with status $status" >>"$log"
    elif [ "$status" -ne 0 ] && [[ "$line" == *", 0 failed" ]]; then
        line="${line%, 0 failed}, 1 failed"
        echo "FAILED $program ($way): ended with status $status" >>"$log"
    fi
    if [ "$status" -ne 0 ]; then tail -40 "$log" | sed "s|^|  \| |"; fi
    echo "$way $program:${line#*:} ($((SECONDS - start)) s)"
    return 0
}
export -f run_one
export out module
xargs -d '\n' -P "$(nproc)" -I LINE bash -c 'run_one "LINE"' <"$plan" | tee "$out/result"
! grep -qE "[1-9][0-9]* failed \(" "$out/result"
