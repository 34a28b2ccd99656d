#!/bin/sh
# Everything that a fresh Debian 12 or Ubuntu 24.04 machine needs to develop and run the lab. Safe to repeat: when nothing has
# changed since the last time it ends at once. Programs come from the distribution, Python packages into .venv.
set -eu
cd "$(dirname "$0")/.."

PROGRAMS="bird birdc bpftool etcd etcdctl redis-server redis-cli ip nsenter ping cc dockerd docker-compose nft iptables busybox debootstrap qemu-system-x86_64"
PACKAGES="python3-bpfcc python3-venv bird2 etcd-server etcd-client redis-server redis-tools iproute2 iputils-ping linux-libc-dev
 util-linux procps kmod ca-certificates make gcc libc6-dev nftables iptables busybox-static debootstrap qemu-system-x86 xz-utils zstd"
SERVICES="bird.service bird6.service etcd.service redis-server.service docker.service docker.socket containerd.service nftables.service"
STAMP=.venv/.fairlead-setup
export PATH="/usr/local/sbin:$PATH:/usr/sbin:/sbin" DEBIAN_FRONTEND=noninteractive

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }

digest() { cat pyproject.toml scripts/setup.sh | sha256sum | cut -d' ' -f1; }

programs_missing() {
    for program in $PROGRAMS; do command -v "$program" >/dev/null 2>&1 || { echo "$program"; return 0; }; done
    bpftool version >/dev/null 2>&1 || { echo "bpftool (for this kernel)"; return 0; }
    [ -d /usr/lib/python3/dist-packages/bcc ] || { echo "python3-bpfcc"; return 0; }
    [ -d /usr/include/linux ] || { echo "linux-libc-dev"; return 0; }
    ls /usr/lib/python3*/ensurepip/__init__.py >/dev/null 2>&1 || { echo "python3-venv"; return 0; }
    return 1
}

# Debian starts what it installs. The lab runs its own instances in its own namespaces, so nothing may start here now (policy-rc.d)
# or at the next boot (disable); what was there before is left as it was.
apt_install() {
    before=""
    for unit in $SERVICES; do [ -e "/lib/systemd/system/$unit" ] && before="$before $unit"; done
    made_policy=""
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        made_policy=yes
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT INT TERM
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d
    fi
    apt-get update -qq
    # shellcheck disable=SC2086 - a list of packages
    apt-get install -y -qq --no-install-recommends $PACKAGES $(bpftool_packages) $(docker_packages) >/dev/null
    [ -z "$made_policy" ] || rm -f /usr/sbin/policy-rc.d
    disable_new_services "$before"
}

disable_new_services() {
    for unit in $SERVICES; do
        case " $1 " in *" $unit "*) continue ;; esac
        [ -e "/lib/systemd/system/$unit" ] || continue
        if command -v systemctl >/dev/null 2>&1; then
            systemctl disable --quiet "$unit" 2>/dev/null || say "could not disable $unit"
        else
            rm -f "/etc/systemd/system/multi-user.target.wants/$unit" "/etc/systemd/system/sockets.target.wants/$unit"
            update-rc.d "${unit%.service}" disable >/dev/null 2>&1 || say "could not disable ${unit%.service}"
        fi
    done
}

# An engine that is there already, from whomever, stays.
docker_packages() {
    command -v dockerd >/dev/null 2>&1 || echo docker.io
    command -v docker-compose >/dev/null 2>&1 || echo docker-compose
}

# Debian has a package of that name; Ubuntu ships bpftool with its kernel tools.
bpftool_packages() {
    if apt-cache policy bpftool | grep -q 'Candidate: [0-9]'; then echo bpftool; else echo linux-tools-common linux-tools-generic; fi
}

# Ubuntu's /usr/sbin/bpftool only looks for the tools of the running kernel; any version's will do for us.
bpftool_for_any_kernel() {
    bpftool version >/dev/null 2>&1 && return 0
    for tool in /usr/lib/linux-tools/*/bpftool /usr/lib/linux-tools-*/bpftool; do
        [ -x "$tool" ] || continue
        mkdir -p /usr/local/sbin
        ln -sf "$tool" /usr/local/sbin/bpftool
    done
    hash -r
    bpftool version >/dev/null 2>&1 || fail "bpftool does not run on this kernel ($(uname -r)): install linux-tools for it"
}

# BCC belongs to the distribution's Python, therefore so must the virtual environment.
make_venv() {
    if ! grep -qs '^include-system-site-packages = true' .venv/pyvenv.cfg || ! grep -qs '^home = /usr/bin' .venv/pyvenv.cfg; then
        rm -rf .venv
        /usr/bin/python3 -m venv --system-site-packages .venv
    fi
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --use-pep517 -e '.[dev]'
}

# Debian 12 has compose of the first generation only. Tests use the second from a later package in a cache; nothing of the machine's
# changes, and without it they say what they did not try.
newer_compose() {
    [ "$(id -u)" = 0 ] || { say "compose v2 is fetched for tests by root only"; return 0; }
    .venv/bin/python -m tests.docker.tools >/dev/null || say "tests go on without compose v2"
}

[ -r "$STAMP" ] && [ "$(cat "$STAMP")" = "$(digest)" ] && ! programs_missing >/dev/null && exit 0
/usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    [ ! -x /usr/bin/python3 ] || fail "/usr/bin/python3 is older than 3.11: use Debian 12, Ubuntu 24.04 or newer"
if missing=$(programs_missing); then
    [ "$(id -u)" = 0 ] || fail "$missing is missing: run this once as root"
    command -v apt-get >/dev/null 2>&1 || fail "$missing is missing, and there is no apt-get: install it by hand"
    say "installing packages ($missing is missing)"
    apt_install
    bpftool_for_any_kernel
    if missing=$(programs_missing); then fail "$missing is still missing after installing"; fi
fi
say "preparing .venv"
make_venv
newer_compose
digest >"$STAMP"
say "done"
