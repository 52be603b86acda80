#!/bin/sh
# Installs those of the named Debian packages that are missing: scripts/apt.sh pkg...
# Exit status 0 if all are there at the end, 1 if one could not be installed.
set -eu

missing=""
for package in "$@"; do
    status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "apt.sh: not a Debian system; install by hand:$missing" >&2
    exit 1
fi
run=""
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null 2>&1 || { echo "apt.sh: neither root nor sudo; missing:$missing" >&2; exit 1; }
    run="sudo"
fi
export DEBIAN_FRONTEND=noninteractive
$run apt-get -qq -o DPkg::Lock::Timeout=120 update >&2
# shellcheck disable=SC2086  # a list of words
$run apt-get -qq -y -o DPkg::Lock::Timeout=120 install --no-install-recommends $missing >&2 || {
    echo "apt.sh: could not install:$missing" >&2
    exit 1
}
