#!/usr/bin/env bash
# Builds the module, the raw back end and the benchmark program, and compares; arguments go to
# bench/run.py (--smoke, --only PATTERN, --json FILE, --full, ...). "domain", "managed", "replication"
# or "fleet" alone measures the domain, managed keys, their replication or a fleet only, which are measured too where nothing
# is left out.
set -euo pipefail
cd "$(dirname "$0")/.."
export AWS_LC_SYS_NO_JITTER_ENTROPY=1
if [[ " $* " == *" --smoke "* ]]; then
    scripts/apt.sh build-essential libp11-kit-dev softhsm2
else
    scripts/apt.sh build-essential libp11-kit-dev softhsm2 libnss3 libnss3-tools opencryptoki procps ||
        echo "some of the other modules are missing; comparing with the rest" >&2
    cargo build --release --locked --lib --example raw_backend
fi
if [[ "${1:-}" =~ ^(domain|managed|replication|fleet)$ ]]; then
    cargo build --release --locked --lib --bins --example fleet_client
    exec "bench/$1/run.sh"
fi
python3 bench/run.py "$@"
if [[ " $* " == *" --smoke "* ]]; then
    bench/domain/run.sh --smoke
    bench/managed/run.sh --smoke
    bench/replication/run.sh --smoke
    bench/fleet/run.sh --smoke
elif [[ " $* " != *" --only "* ]]; then
    cargo build --release --locked --lib --bins --example fleet_client
    bench/domain/run.sh
    bench/managed/run.sh
    bench/replication/run.sh
    bench/fleet/run.sh
fi
