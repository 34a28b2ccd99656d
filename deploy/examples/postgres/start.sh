#!/bin/sh
# Makes a database at the first start, for the user and with the password of POSTGRES_USER and POSTGRES_PASSWORD; then serves it.
set -eu
bin=/usr/lib/postgresql/15/bin
if [ ! -s /data/PG_VERSION ]; then
    password=$(mktemp)
    printf '%s\n' "${POSTGRES_PASSWORD:?}" >"$password"
    "$bin/initdb" -D /data -U "${POSTGRES_USER:-app}" --pwfile="$password" --auth=scram-sha-256 --locale=C.UTF-8
    rm "$password"
    # who may come at all is Fairlead's affair; with a password from anywhere is PostgreSQL's
    echo "host all all all scram-sha-256" >>/data/pg_hba.conf
fi
exec "$bin/postgres" -D /data -c "listen_addresses=*" -c unix_socket_directories=/tmp
