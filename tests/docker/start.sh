#!/bin/sh
# Makes a cluster that trusts everybody (it lives as long as one test run) and runs it in the foreground.
set -eu
data=/var/lib/postgresql/test
initdb -D "$data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync
echo "host all all all trust" >> "$data/pg_hba.conf"
exec postgres -D "$data" \
    -c listen_addresses='*' -c fsync=off -c max_connections=200 \
    -c shared_preload_libraries=pg_cron -c cron.database_name=postgres -c cron.use_background_workers=on
