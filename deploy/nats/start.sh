#!/bin/sh
# Runs the hub or a node's own server: fairlead-nats hub|leaf. Options as everywhere: FAIRLEAD_NODE and FAIRLEAD_HUB, or the files
# `node` and `hub` in /etc/fairlead. A configuration /etc/fairlead/nats/hub.conf or leaf.conf (as `fairlead credentials` makes
# them) is used instead of the image's.
set -eu
folder=/etc/fairlead
role=${1:?hub or leaf}
option() { # VARIABLE-VALUE FILE DEFAULT
    if [ -n "$1" ]; then echo "$1"; elif [ -r "$folder/$2" ]; then cat "$folder/$2"; else echo "$3"; fi
}
FAIRLEAD_NODE=$(option "${FAIRLEAD_NODE:-}" node "")
FAIRLEAD_HUB_URL=nats://$(option "${FAIRLEAD_HUB:-}" hub 127.0.0.1):7422
export FAIRLEAD_NODE FAIRLEAD_HUB_URL
if [ "$role" = leaf ] && [ -z "$FAIRLEAD_NODE" ]; then
    echo "fairlead-nats: node: nobody says what this node is called: set FAIRLEAD_NODE, or write it to $folder/node" >&2
    exit 2
fi
conf=$folder/nats/$role.conf
[ -r "$conf" ] || conf=/etc/nats/$role.conf
exec nats-server -c "$conf"
