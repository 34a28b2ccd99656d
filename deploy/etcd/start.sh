#!/bin/sh
# Runs the store. Where credentials are on (FAIRLEAD_NATS_CREDENTIALS, or the file `nats-credentials` in /etc/fairlead) and their folder has
# certificates for it, it speaks TLS and asks clients for theirs; a folder made by an earlier version has none (`fairlead credentials etcd`).
# Further options are etcd's own.
set -eu
credentials=${FAIRLEAD_NATS_CREDENTIALS:-}
[ -n "$credentials" ] || [ ! -r /etc/fairlead/nats-credentials ] || credentials=$(cat /etc/fairlead/nats-credentials)
folder=$credentials/etcd
scheme=http
if [ -n "$credentials" ] && [ -d "$folder" ]; then
    if [ ! -r "$folder/etcd.key" ]; then
        echo "fairlead-etcd: nats_credentials: $folder/etcd.key is not for user $(id -u) to read (\`fairlead credentials init --user\`)" >&2
        exit 2
    fi
    scheme=https
    # the gateway for JSON would speak as the server itself
    set -- --cert-file="$folder/etcd.crt" --key-file="$folder/etcd.key" --trusted-ca-file="$folder/authority.crt" \
        --client-cert-auth --enable-grpc-gateway=false "$@"
fi
exec etcd --listen-client-urls="$scheme://0.0.0.0:2379" --advertise-client-urls="$scheme://etcd:2379" \
    --listen-metrics-urls=http://127.0.0.1:2381 "$@"
