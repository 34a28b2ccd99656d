#!/bin/sh
# Runs BIRD as the node's BGP speaker: bird-entrypoint.sh [FOLDER-OF-BIRD.CONF] [RUN-FOLDER]
#
# The configuration is written by the bgp service; until it is there for the first time, this waits. From then on the speaker needs
# nobody: it starts, announces and restarts from the files alone.
#   TERM, INT   graceful restart: the sessions end without Cease and the neighbours keep our routes (BIRD's own TERM withdraws them)
#   USR1        the node leaves for good: Cease, the routes are withdrawn at once
set -u
conf_dir=${1:-${FAIRLEAD_STATE_DIR:-/var/lib/fairlead}/bgp}
run_dir=${2:-${FAIRLEAD_BGP_RUN_DIR:-/run/fairlead/bgp}}
conf=$conf_dir/bird.conf
good=$conf_dir/last-good/bird.conf
ctl=$run_dir/bird.ctl
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
mkdir -p "$run_dir"

trap 'exit 0' TERM INT USR1
until [ -s "$conf" ]; do sleep 0.1; done

if ! bird -p -c "$conf"; then
    [ -s "$good" ] || { echo "bird-entrypoint: $conf is not valid, and there is no $good" >&2; exit 1; }
    echo "bird-entrypoint: $conf is not valid, starting with $good" >&2
    conf=$good
fi

# A speaker that lost its entrypoint still holds the sessions: let it go without Cease, then take over.
if [ -S "$ctl" ]; then birdc -s "$ctl" graceful restart >/dev/null 2>&1; rm -f "$ctl"; fi

# -R: recover gracefully, otherwise some neighbours drop our routes before we have announced them again.
bird -f -R -c "$conf" -s "$ctl" -P "$run_dir/bird.pid" &
pid=$!
trap 'birdc -s "$ctl" graceful restart >/dev/null' TERM INT
trap 'birdc -s "$ctl" down >/dev/null' USR1
status=0
while kill -0 "$pid" 2>/dev/null; do wait "$pid"; status=$?; done
exit "$status"
