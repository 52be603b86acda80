#!/usr/bin/env bash
# Shows a fleet: three HSMs and a quorum, key tokens in PostgreSQL, two hosts; an HSM is killed while a client
# signs. Everything happens in a directory of its own that goes away at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
export AWS_LC_SYS_NO_JITTER_ENTROPY=1

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() {
    local words="$*"
    words=${words//$db/\$DATABASE}
    words=${words//$work\//}
    printf '   $ %s\n' "${words//$conclave/conclave}"
    "$@" 2>&1 | sed 's/^/   /'
}

scripts/apt.sh postgresql openssl python3
say "1. Build"
[ -n "${CONCLAVE_MODULE:-}" ] || cargo build --release --locked --quiet
module=${CONCLAVE_MODULE:-$root/target/release/libconclave.so}
bin=$(dirname "$module")
conclave=$bin/conclave

work=$(mktemp -d /tmp/conclave-fleet-XXXXXX)
chmod 755 "$work"
hsms=()
finish() {
    [ ${#hsms[@]} -eq 0 ] || kill "${hsms[@]}" 2>/dev/null || true
    "$root/scripts/postgres.sh" stop "$work/postgres" >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap finish EXIT
export CONCLAVE_HOME=$work/data
mkdir -m 700 "$work/data" "$work/operators" "$work/web-1" "$work/web-2"

say "2. PostgreSQL, with a database for the key tokens"
scripts/postgres.sh start "$work/postgres" $$ >/dev/null
db=$(scripts/postgres.sh database "$work/postgres" payments)
echo "   ${db/:a-password@/:…@}"

# hsm NAME OPTION...: starts one; its process is the last of ${hsms[@]}.
hsm() {
    local name=$1
    shift
    "$bin/conclaved" --name "$name" --listen "unix:$work/$name.sock" --admin "$work/$name.admin" "$@" \
        >"$work/$name.out" 2>"$work/$name.log" &
    hsms+=($!)
    disown
    until [ -s "$work/$name.out" ]; do sleep 0.02; done
    sed 's/^/   /' "$work/$name.out" | grep -E 'name|id|signing'
}
say "3. The first HSM begins the domain"
hsm a
show "$conclave" fleet create --admin "$work/a.admin" --database "$db" --label payments

say "4. Three operators found it; from then on two of them decide"
cd "$work/operators"
export CONCLAVE_CONF=$work/operators/conclave.toml PASS=passphrase-$RANDOM$RANDOM
printf 'embedded = false\n[[fleet]]\nregion = "eu-1"\nhsm = ["admin:%s"]\ndatabase = "%s"\n' "$work/a.admin" "$db" >"$CONCLAVE_CONF"
pass=(--passphrase env:PASS)
"$conclave" domain export --out domain.token >log
operators=()
for person in Anna Ben Cleo; do
    "$conclave" operator keygen --out $person.pem "${pass[@]}" >>log
    "$conclave" operator claim --person $person --domain domain.token --keys $person.pem "${pass[@]}" --out $person.claim >>log
    operators+=(--operator "$person.claim:officer,operator")
done
# decide PROPOSAL PERSON...: they sign, and it is executed.
decide() {
    local proposal=$1 person
    shift
    for person in "$@"; do
        "$conclave" proposal sign "$proposal" --keys "$person.pem" "${pass[@]}" --domain domain.token --yes >>log 2>&1
    done
    "$conclave" proposal execute "$proposal" --yes 2>>log | sed 's/^/   /'
}
"$conclave" domain found --region eu-1 "${operators[@]}" --out found.proposal >>log
decide found.proposal Anna Ben Cleo
"$conclave" domain export --out founded.token >>log && mv founded.token domain.token
fingerprint=$("$conclave" fleet fingerprint)
echo "   Its fingerprint, for HSMs and hosts: ${fingerprint:0:24}…"

say "5. Two more HSMs are admitted by their claims"
for name in b c; do
    hsm $name --domain-fingerprint "$fingerprint"
    "$conclave" fleet bring --admin "$work/$name.admin" >>log
    "$conclave" hsm claim --admin "$work/$name.admin" --out $name.claim >>log
    "$conclave" proposal new admit-hsm --claim $name.claim --out $name.proposal >>log
    decide $name.proposal Anna Ben
    show "$conclave" fleet bring --admin "$work/$name.admin"
done

say "6. Two hosts, the security officer and a user"
for host in web-1 web-2; do
    "$conclave" host new --out "$work/$host/host.pem" --name $host --domain domain.token --claim $host.claim >>log
    "$conclave" proposal new admit-host --claim $host.claim --out $host.proposal >>log
    decide $host.proposal Ben Cleo
    printf 'embedded = false\n[[fleet]]\nregion = "eu-1"\nhsm = ["unix:%s/a.sock", "unix:%s/b.sock", "unix:%s/c.sock"]\nhost_key = "host.pem"\ntrust = "%s"\ndatabase = "%s"\n' \
        "$work" "$work" "$work" "$fingerprint" "$db" >"$work/$host/conclave.toml"
done
export CODE=enrolment-code-$RANDOM$RANDOM PIN=$((RANDOM % 9000 + 1000))56 SO_PIN=$((RANDOM % 9000 + 1000))4321
for role in SO user; do
    "$conclave" proposal new create-user --user $role --code env:CODE --out $role.proposal >>log
    decide $role.proposal Anna Cleo
done
"$conclave" user set-pin --user SO --code env:CODE --new-pin env:SO_PIN | sed 's/^/   /'
"$conclave" user set-pin --user user --code env:CODE --new-pin env:PIN | sed 's/^/   /'

say "7. web-1 makes a key; any HSM serves it"
on() { local host=$1; shift; CONCLAVE_CONF=$work/$host/conclave.toml "$@"; }
tool() { on web-1 pkcs11-tool --module "$module" --token-label payments --login --pin "$PIN" "$@" 2>&1; }
tool --keypairgen --key-type EC:prime256v1 --id 01 --label payments | sed -n 's/^/   /;1,4p'
on web-1 "$conclave" session show | sed 's/^/   /'

say "8. web-1 signs 2000 payments; in the middle one HSM is killed; web-2 verifies"
export PYTHONDONTWRITEBYTECODE=1
on web-1 python3 "$root/python-tests/demo_fleet.py" "$module" payments "$PIN" sign payments 2000 "$work/signatures" "${hsms[1]}"
on web-2 python3 "$root/python-tests/demo_fleet.py" "$module" payments "$PIN" verify payments "$work/signatures"
on web-1 "$conclave" session show | sed 's/^/   /'

say "9. The dead HSM is expelled: new domain keys, and nobody notices"
dead=$(sed -n 's/^id *//p' "$work/b.out")
"$conclave" proposal new expel-hsm --id "$dead" --out expel.proposal >>log
decide expel.proposal Anna Ben
on web-2 python3 "$root/python-tests/demo_fleet.py" "$module" payments "$PIN" verify payments "$work/signatures"
show "$conclave" domain history
