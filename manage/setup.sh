#!/bin/sh
# Makes what "make demo" and "make test" need, where it is missing: a virtual environment with this package, and, as root
# on Debian, PostgreSQL's and pg_cron's packages. It never starts, stops or configures a server that is there.
#   manage/setup.sh VENV [extra]
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
venv=$1
extra=${2:-}

say() { echo "setup: $*" >&2; }

apt_install() {
    if [ "$(id -u)" != 0 ]; then
        say "missing: $*; as root: apt-get install $*"
        exit 1
    fi
    say "installing Debian's $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q >&2
    apt-get install -q -y --no-install-recommends "$@" >&2
}

server_programs() {
    ls -d "${PG_GRACE_BINDIR:-/usr/lib/postgresql/15/bin}" 2>/dev/null
}

packages="postgresql-15 postgresql-15-cron"
libraries=pg_cron.so
if [ "$extra" = test ]; then
    packages="$packages postgresql-15-plpgsql-check"
    libraries="$libraries plpgsql_check.so"
fi
missing() {
    [ -n "$(server_programs)" ] || return 0
    for library in $libraries; do
        [ -e "$("$(server_programs)/pg_config" --pkglibdir)/$library" ] || return 0
    done
    return 1
}

if missing; then
    if [ -d /etc/postgresql ] && [ -n "$(ls -A /etc/postgresql)" ]; then
        apt_install $packages
    else
        # Debian makes and starts a cluster when PostgreSQL is installed; nobody asked for one.
        apt_install postgresql-common
        mkdir -p /etc/postgresql-common/createcluster.d
        echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.d/pg_grace.conf
        trap 'rm -f /etc/postgresql-common/createcluster.d/pg_grace.conf' EXIT
        apt_install $packages
    fi
fi

if [ ! -x "$venv/bin/python" ]; then
    say "making the virtual environment $venv"
    python3 -m venv "$venv" 2>/dev/null || { rm -rf "$venv"; apt_install python3-venv; python3 -m venv "$venv"; }
fi
if ! [ "$venv/.ready$extra" -nt "$here/pyproject.toml" ]; then
    say "installing pg_grace into it"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check -e "$here${extra:+[$extra]}" >&2
    touch "$venv/.ready$extra"
fi
