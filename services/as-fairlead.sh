#!/bin/sh
# Become the user fairlead (5300) without any capability, who owns the folders: as-fairlead FOLDER... -- COMMAND [ARGUMENT...]
#
# Folders that docker makes for a mount belong to root. One that belongs to fairlead already is left as it is, so that a start
# costs nothing; the folder of start admission is shared with services that are root without capabilities, by its group.
set -eu
admission=${FAIRLEAD_STATE_DIR:+$FAIRLEAD_STATE_DIR/admission}
own() { # FOLDER GROUP MODE
    mkdir -p "$1"
    [ "$(stat -c %u "$1")" = 5300 ] && return
    chmod "$3" "$1"
    chown -R "5300:$2" "$1"
}
while [ "$1" != -- ]; do own "$1" 5300 755; shift; done
shift
[ -z "$admission" ] || own "$admission" 0 775
exec setpriv --reuid=5300 --regid=5300 --clear-groups --bounding-set=-all --inh-caps=-all -- "$@"
