#!/usr/bin/env bash
# Builds the module and puts it to work, talking as it goes. Everything happens in a directory of
# its own that goes away at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
export AWS_LC_SYS_NO_JITTER_ENTROPY=1

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
# Shows a command, with the module's path as $MODULE, and runs it.
show() {
    local words="$*"
    words=${words//$module/\$MODULE}
    printf "   $ %s\n" "${words//$conclave/conclave}"
    "$@" 2>&1 | sed 's/^/   /'
}

# Only the lines that match are shown of what a command says, without the names of keys.
lines() { "${@:2}" 2>&1 | grep -E "$1" | sed -E 's/ \(signs with[^)]*\)//' | fold -sw 104 | sed 's/^ */   /'; }

scripts/apt.sh opensc openssl gcc libc6-dev python3
say "1. Build the module"
cargo build --release --locked --quiet
module=$root/target/release/libconclave.so
conclave=$root/target/release/conclave
ls -l "$module" | awk '{ printf "   %s, %.1f MB\n", $NF, $5 / 1e6 }'

work=$(mktemp -d /tmp/conclave-demo-XXXXXX)
trap 'rm -rf "$work"' EXIT
export CONCLAVE_HOME=$work/data CONCLAVE_CONF=$work/conclave.toml
: >"$CONCLAVE_CONF"
cd "$work"
so_pin=$((RANDOM % 9000 + 1000))4321
pin=$((RANDOM % 9000 + 1000))56
tool=(pkcs11-tool --module "$module")

say "2. Make a token with pkcs11-tool"
show "${tool[@]}" --init-token --slot-index 0 --label demo --so-pin "$so_pin"
show "${tool[@]}" --token-label demo --login --login-type so --so-pin "$so_pin" --init-pin --new-pin "$pin"
show "$conclave" token list

say "3. Generate an RSA, an EC and an AES key"
user=("${tool[@]}" --token-label demo --login --pin "$pin")
show "${user[@]}" --keypairgen --key-type rsa:3072 --id 01 --label demo-rsa
show "${user[@]}" --keypairgen --key-type EC:prime256v1 --id 02 --label demo-ec
show "${user[@]}" --keygen --key-type AES:32 --id 03 --label demo-aes --sensitive --private

say "4. Sign the project's README with both, and let openssl verify"
cp "$root/README.md" .
show "${user[@]}" --sign --mechanism SHA256-RSA-PKCS --id 01 --input-file README.md --output-file rsa.sig
show "${user[@]}" --read-object --type pubkey --id 01 --output-file rsa.der
show openssl dgst -sha256 -keyform DER -verify rsa.der -signature rsa.sig README.md
show "${user[@]}" --sign --mechanism ECDSA-SHA256 --signature-format openssl --id 02 --input-file README.md \
    --output-file ec.sig
show "${user[@]}" --read-object --type pubkey --id 02 --output-file ec.der
show openssl dgst -sha256 -keyform DER -verify ec.der -signature ec.sig README.md
echo "one more line" >>README.md
if openssl dgst -sha256 -keyform DER -verify ec.der -signature ec.sig README.md >/dev/null 2>&1; then
    echo "   a changed README was accepted" && exit 1
fi
echo "   A README with one more line is refused."

say "5. Encrypt and decrypt a file of 10 MB from Python, through ctypes"
tar -cf - -C "$root" --exclude=./target --exclude=./.git . "$module" 2>/dev/null | head -c 10000000 >file || true
[ "$(stat -c %s file)" -eq 10000000 ] || head -c 10000000 "$module" /bin/* 2>/dev/null | head -c 10000000 >file || true
echo "   a file of $(stat -c %s file) bytes: this project's sources and the module itself"
PYTHONDONTWRITEBYTECODE=1 python3 "$root/python-tests/demo_file.py" "$module" demo "$pin" demo-aes file

say "6. Wrap a key under another and unwrap it again, from a C program that uses dlopen"
gcc -std=c99 -Wall -O2 -I"$root/include" "$root/c-tests/demo_wrap.c" -o demo_wrap -ldl
./demo_wrap "$module" demo "$pin"

say "7. What the token holds"
CONCLAVE_DEMO_PIN=$pin show "$conclave" key list --token demo --pin env:CONCLAVE_DEMO_PIN

say "8. A managed key: a file under a data key, rotation, a deletion that is taken back"
export CONCLAVE_DEMO_PIN=$pin
login=(--token demo --pin env:CONCLAVE_DEMO_PIN)
show "$conclave" key create --alias files --description "of the demo" "${login[@]}"
show "$conclave" key data-key files --context file=README --plaintext-out data.key --blob-out data.blob "${login[@]}"
cms() { openssl cms "$@" -binary -secretkeyid 01 -secretkey "$(od -An -v -tx1 data.key | tr -d ' \n')"; }
cp "$root/README.md" secret.md
cms -encrypt -aes-256-gcm -in secret.md -outform DER -out secret.cms
rm data.key
echo "   openssl encrypted the README under the data key (AES-256-GCM); the key in clear is gone, its blob stays."
show "$conclave" key rotate files "${login[@]}"
show "$conclave" key rotation files "${login[@]}"
show "$conclave" key decrypt --context file=README --in data.blob --out data.key "${login[@]}"
cms -decrypt -inform DER -in secret.cms -out secret.out
cmp secret.out secret.md
echo "   What was encrypted before the rotation decrypts: the README is the same."
if "$conclave" key decrypt --context file=other --in data.blob --out other.key "${login[@]}" >refused.log 2>&1; then
    echo "   another encryption context was accepted" && exit 1
fi
lines conclave cat refused.log
show "$conclave" key delete files --days 7 --yes "${login[@]}"
if "$conclave" key decrypt --context file=README --in data.blob --out other.key "${login[@]}" >refused.log 2>&1; then
    echo "   a key that waits for its deletion was used" && exit 1
fi
lines conclave cat refused.log
show "$conclave" key cancel-deletion files "${login[@]}"
show "$conclave" key enable files "${login[@]}"
show "$conclave" audit head --out demo.head "${login[@]}"
show "$conclave" audit verify --token demo --head demo.head
cp -r "$CONCLAVE_HOME" altered
python3 -c 'import glob, sqlite3
with sqlite3.connect(glob.glob("altered/tokens/*/token.db")[0]) as db:
    db.execute("DELETE FROM audit WHERE id = (SELECT MAX(id) - 3 FROM audit)")'
if CONCLAVE_HOME=$PWD/altered "$conclave" audit verify --token demo >refused.log 2>&1; then
    echo "   a removed record was not missed" && exit 1
fi
echo "   In a copy of the token, one record of the log was removed from the database:"
lines conclave: cat refused.log
rm -r altered

say "9. Hand the token over from its security officer to three operators, two of whom decide"
export CONCLAVE_DEMO_SO=$so_pin CONCLAVE_DEMO_PASS=passphrase-$RANDOM$RANDOM
pass=(--passphrase env:CONCLAVE_DEMO_PASS)
signs() { printf '   %-5s' "$1:" && lines '^Signed\.' "$conclave" proposal sign "$2" --keys "$1.pem" "${pass[@]}" --domain demo.token --yes; }
"$conclave" domain export --token demo --out demo.token >keys.log
for person in Anna Ben Cleo; do
    "$conclave" operator keygen --out $person.pem "${pass[@]}" >>keys.log
    "$conclave" operator claim --person $person --domain demo.token --keys $person.pem "${pass[@]}" \
        --out $person.claim >>keys.log
done
echo "   Anna, Ben and Cleo each made keys and claimed them for this domain. The founding names them:"
lines '^ .*(Hand|Operator|default)' "$conclave" domain found --token demo --region eu-1 --out found.proposal \
    --operator Anna.claim:officer,operator --operator Ben.claim:officer,operator --operator Cleo.claim:officer,operator
for person in Anna Ben Cleo; do signs $person found.proposal; done
lines '^Done' "$conclave" proposal execute found.proposal --token demo --yes --so-pin env:CONCLAVE_DEMO_SO
show "$conclave" token list

say "10. Admit a host: one signature is refused, two are enough"
"$conclave" domain export --token demo --out demo.token >>keys.log
"$conclave" operator keygen --out web-1.pem "${pass[@]}" >>keys.log
"$conclave" operator claim --host web-1 --domain demo.token --keys web-1.pem "${pass[@]}" --out web-1.claim >>keys.log
lines 'Admit' "$conclave" proposal new admit-host --claim web-1.claim --token demo --out admit.proposal
signs Anna admit.proposal
execute=("$conclave" proposal execute admit.proposal --token demo --yes --pin env:CONCLAVE_DEMO_PIN)
if "${execute[@]}" >refused.log 2>&1; then
    echo "   one signature was enough" && exit 1
fi
lines 'refused' cat refused.log
signs Ben admit.proposal
lines '^Done' "${execute[@]}"

say "11. Who approved what, verified as it prints"
show "$conclave" domain history --token demo --out demo.history
python3 -c 'b = bytearray(open("demo.history", "rb").read()); b[len(b) // 2] ^= 1; open("altered.history", "wb").write(b)'
if "$conclave" domain history --file altered.history >refused.log 2>&1; then
    echo "   an altered history was accepted" && exit 1
fi
echo "   The same history with one bit changed is refused:"
lines conclave cat refused.log

say "12. A second Region with a quorum of its own; each trusts the other by its own operators"
there=(env CONCLAVE_HOME="$work/us")
mkdir "$work/us"
"${there[@]}" "$conclave" token init --label us --so-pin env:CONCLAVE_DEMO_SO --pin env:CONCLAVE_DEMO_PIN >>keys.log
"${there[@]}" "$conclave" domain export --token us --out us.token >>keys.log
for person in Dora Emil; do
    "$conclave" operator keygen --out $person.pem "${pass[@]}" >>keys.log
    "$conclave" operator claim --person $person --domain us.token --keys $person.pem "${pass[@]}" --out $person.claim >>keys.log
done
"${there[@]}" "$conclave" domain found --token us --region us-1 --out us.proposal \
    --operator Dora.claim:officer,operator --operator Emil.claim:officer,operator >>keys.log
us_signs() { "$conclave" proposal sign "$2" --keys "$1.pem" "${pass[@]}" --yes >>keys.log 2>&1; }
us_signs Dora us.proposal
us_signs Emil us.proposal
"${there[@]}" "$conclave" proposal execute us.proposal --token us --yes --so-pin env:CONCLAVE_DEMO_SO \
    >>keys.log 2>&1
echo "   Dora and Emil founded the Region us-1, in another data directory."
"$conclave" region show --token demo --json >eu-1.region
"${there[@]}" "$conclave" region show --token us --json >us-1.region
lines '^(Region|Domain|Signs)' "${there[@]}" "$conclave" region show --token us
"$conclave" proposal new trust-region --region us-1.region --token demo --out trust-us.proposal >trust.log 2>&1
echo "   In eu-1, Anna and Ben compared that on the telephone with what they sign:"
lines 'Trust the' cat trust.log
for person in Anna Ben; do us_signs $person trust-us.proposal; done
lines '^Done' "$conclave" proposal execute trust-us.proposal --token demo --yes --pin env:CONCLAVE_DEMO_PIN
echo "   Dora and Emil do the same for eu-1:"
"${there[@]}" "$conclave" proposal new trust-region --region eu-1.region --token us --out trust-eu.proposal >>keys.log 2>&1
for person in Dora Emil; do us_signs $person trust-eu.proposal; done
lines '^Done' "${there[@]}" "$conclave" proposal execute trust-eu.proposal --token us --yes --pin env:CONCLAVE_DEMO_PIN

say "13. A multi-Region key crosses by the proxy, which sees no key"
us_login=(--token us --pin env:CONCLAVE_DEMO_PIN)
"$(dirname "$conclave")/conclave-proxy" --listen 127.0.0.1:0 --data "$work/proxy" >proxy.log 2>&1 &
background=($!)
trap 'kill "${background[@]}" 2>/dev/null || true; wait; rm -rf "$work"' EXIT
for _ in {1..100}; do grep -qs 'listening on' proxy.log && break; sleep 0.1; done
proxy=http://$(sed -n 's/^listening on //p' proxy.log)
"${there[@]}" "$conclave" region serve --proxy "$proxy" "${us_login[@]}" >us-serve.log 2>&1 &
background+=($!)
mrk=$("$conclave" key create --multi-region --alias shared --json "${login[@]}" | sed -n 's/.*"KeyId": "\(.*\)".*/\1/p')
echo "   $mrk is made in eu-1, and encrypts the README there."
"$conclave" key data-key shared --context file=README --plaintext-out data.key --blob-out old.blob "${login[@]}" >>keys.log
cms -encrypt -aes-256-gcm -in secret.md -outform DER -out old.cms
rm data.key
show "$conclave" replicate shared --to us-1 --proxy "$proxy" "${login[@]}"
opens() {
    "$@" key decrypt --context file=README --in "$file.blob" --out data.key --pin env:CONCLAVE_DEMO_PIN >>keys.log
    cms -decrypt -inform DER -in "$file.cms" -out secret.out
    cmp secret.out secret.md
    rm data.key secret.out
}
file=old opens "${there[@]}" "$conclave"
echo "   In us-1 the file decrypts: it is the same."

say "14. The primary rotates; both Regions read old and new"
"$conclave" region serve --proxy "$proxy" "${login[@]}" >eu-serve.log 2>&1 &
background+=($!)
"$conclave" key rotate shared "${login[@]}" >>keys.log
for _ in {1..300}; do
    "${there[@]}" "$conclave" key describe "$mrk" --json "${us_login[@]}" | grep -q '"KeyVersion": 2' && break
    sleep 0.2
done
show "$conclave" key replicas shared "${login[@]}"
"$conclave" key data-key shared --context file=README --plaintext-out data.key --blob-out new.blob "${login[@]}" >>keys.log
cms -encrypt -aes-256-gcm -in secret.md -outform DER -out new.cms
rm data.key
for file in old new; do
    opens "$conclave"
    opens "${there[@]}" "$conclave"
done
echo "   Both files decrypt in both Regions. What us-1 did, message by message:"
grep ' taken ' us-serve.log | sed -E 's/^.*UTC /   /; s/ ids=[^ ]+//; s#/[0-9a-f]{32}##'
kill "${background[@]}"
wait "${background[@]}" 2>/dev/null || true

say "Done: everything worked."
