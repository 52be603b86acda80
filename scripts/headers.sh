#!/usr/bin/env bash
# Writes include/ anew from the sources.
set -euo pipefail
cd "$(dirname "$0")/.."
CONCLAVE_UPDATE_HEADERS=1 cargo test --locked --quiet --test headers the_headers_in_include_are_current
git --no-pager diff --stat -- include 2>/dev/null || true
