#!/bin/sh
# Becomes systemd, with all that it needs. `docker run --privileged` would not do: it asks for every capability, and the machine on which
# this runs may not have them all. CGROUP names a group of our own in the unified hierarchy, so that systemd sees no other.
set -eu
mount -o remount,rw /sys
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p "/sys/fs/cgroup/$CGROUP"
echo $$ >"/sys/fs/cgroup/$CGROUP/cgroup.procs"
umount /sys/fs/cgroup
exec unshare -C sh -c 'mount -t cgroup2 cgroup2 /sys/fs/cgroup; mount --make-rshared /; exec /sbin/init'
