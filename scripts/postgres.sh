#!/usr/bin/env bash
# A PostgreSQL of one's own on the loopback interface, for tests: with TLS, passwords by SCRAM, and all
# of its files under one directory.
#
#   scripts/postgres.sh start DIR [PID]   makes and starts it; prints the address of its database
#                                         "postgres". With PID it ends, and DIR goes, when that process does.
#   scripts/postgres.sh database DIR NAME makes a database; prints its address
#   scripts/postgres.sh url DIR [NAME]    prints an address again
#   scripts/postgres.sh down DIR | up DIR stops it at once (as a crash does) and starts it again
#   scripts/postgres.sh stop DIR          ends it and removes DIR
#
# DIR must not exist, in a directory that everybody may enter: as root, the server runs as "postgres".
# FSYNC=on makes commits durable, which tests do not need.
set -euo pipefail

bin=$(find /usr/lib/postgresql/*/bin /usr/local/pgsql/bin -maxdepth 0 2>/dev/null | sort -V | tail -1 || true)
[ -n "$bin" ] || bin=$(pg_config --bindir 2>/dev/null) || { echo "postgres.sh: PostgreSQL is not installed" >&2; exit 1; }
command=${1:?command}
dir=${2:?directory}

# Runs a command as the server's user.
as_server() {
    if [ "$(id -u)" = 0 ]; then
        (cd / && setpriv --reuid=postgres --regid=postgres --clear-groups env HOME="$dir" "$@")
    else
        "$@"
    fi
}

url() {
    echo "postgresql://conclave:a-password@localhost:$(cat "$dir/port")/$1?sslmode=verify-full&sslrootcert=$dir/ca.pem"
}

certificates() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=root of a test" \
        -keyout "$dir/ca.key" -out "$dir/ca.pem"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=localhost" \
        -keyout "$dir/server.key" -out "$dir/server.csr"
    openssl x509 -req -in "$dir/server.csr" -CA "$dir/ca.pem" -CAkey "$dir/ca.key" -CAcreateserial -days 3650 \
        -extfile <(printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n') \
        -out "$dir/server.pem"
    chmod 600 "$dir/server.key"
}

up() {
    as_server "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w -t 30 -o "-p $(cat "$dir/port")" start >&2
}

start() {
    mkdir -m 755 "$dir"
    certificates 2>"$dir/openssl.log"
    echo a-password >"$dir/password"
    [ "$(id -u)" != 0 ] || chown -R postgres:postgres "$dir"
    as_server "$bin/initdb" -D "$dir/data" -N -U conclave -E UTF8 --locale=C \
        --auth-local=trust --auth-host=scram-sha-256 --pwfile="$dir/password" >"$dir/initdb.log"
    as_server tee -a "$dir/data/postgresql.conf" >/dev/null <<END
listen_addresses = '127.0.0.1'
unix_socket_directories = '$dir'
max_connections = 200
shared_buffers = 64MB
fsync = ${FSYNC:-off}
ssl = on
ssl_cert_file = '$dir/server.pem'
ssl_key_file = '$dir/server.key'
log_min_messages = error
END
    for _ in 1 2 3 4 5 6 7 8; do
        echo $((20000 + RANDOM % 12000)) >"$dir/port"
        if up 2>/dev/null; then
            return
        fi
    done
    cat "$dir/log" >&2
    exit 1
}

stop() {
    as_server "$bin/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1 || true
    rm -rf "$dir"
}

case $command in
start)
    start
    url postgres
    if [ -n "${3:-}" ]; then
        (
            trap '' INT
            while kill -0 "$3" 2>/dev/null; do sleep 0.5; done
            stop
        ) >/dev/null 2>&1 </dev/null &
    fi
    ;;
database)
    "$bin/psql" -q -h "$dir" -p "$(cat "$dir/port")" -U conclave -d postgres -c "CREATE DATABASE \"${3:?name}\"" >&2
    url "$3"
    ;;
url) url "${3:-postgres}" ;;
down) as_server "$bin/pg_ctl" -D "$dir/data" -m immediate stop >&2 ;;
up) up ;;
stop) stop ;;
*) echo "postgres.sh: no such command: $command" >&2; exit 2 ;;
esac
