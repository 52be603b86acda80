#!/usr/bin/env bash
# Formatting, clippy, and the rules of deny.toml over the dependency tree. Builds cargo-deny once,
# into target/tools.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo fmt --check
cargo clippy --locked --all-targets -- -D warnings
deny=target/tools/bin/cargo-deny
if [ ! -x "$deny" ]; then
    cargo install cargo-deny --version 0.20.2 --locked --root target/tools --target-dir target/tools/build
    rm -rf target/tools/build
fi
"$deny" --locked check bans licenses sources
