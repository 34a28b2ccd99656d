#!/bin/sh
# Runs the hub or a node's own server: fairlead-nats hub|leaf. Options as everywhere: FAIRLEAD_NODE, FAIRLEAD_HUB and
# FAIRLEAD_NATS_CREDENTIALS, or the files `node`, `hub` and `nats-credentials` in /etc/fairlead. A configuration there, nats/hub.conf or
# leaf.conf, goes before all others; else the folder of credentials has one, where credentials are on; else the image's lets everybody speak.
set -eu
folder=/etc/fairlead
role=${1:?hub or leaf}
option() { # VARIABLE-VALUE FILE DEFAULT
    if [ -n "$1" ]; then echo "$1"; elif [ -r "$folder/$2" ]; then cat "$folder/$2"; else echo "$3"; fi
}
refuse() {
    echo "fairlead-nats: $1" >&2
    exit 2
}
FAIRLEAD_NODE=$(option "${FAIRLEAD_NODE:-}" node "")
FAIRLEAD_HUB_URL=nats://$(option "${FAIRLEAD_HUB:-}" hub 127.0.0.1):7422
credentials=$(option "${FAIRLEAD_NATS_CREDENTIALS:-}" nats-credentials "")
export FAIRLEAD_NODE FAIRLEAD_HUB_URL
if [ "$role" = leaf ] && [ -z "$FAIRLEAD_NODE" ]; then
    refuse "node: nobody says what this node is called: set FAIRLEAD_NODE, or write it to $folder/node"
fi
conf=$folder/nats/$role.conf
if [ ! -r "$conf" ] && [ -n "$credentials" ]; then
    if [ "$role" = hub ]; then conf=$credentials/hub/nats.conf; else conf=$credentials/nodes/$FAIRLEAD_NODE/nats.conf; fi
    [ -r "$conf" ] || refuse "nats_credentials: $conf is not there, or not for user $(id -u) to read (\`fairlead credentials init --user\`)"
fi
[ -r "$conf" ] || conf=/etc/nats/$role.conf
exec nats-server -c "$conf"
