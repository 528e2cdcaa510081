# Makes the databases if there are none, then becomes the server, as the user postgres.
set -e
programs=/usr/lib/postgresql/15/bin
data=/var/lib/postgresql/data
as_postgres="setpriv --reuid=postgres --regid=postgres --clear-groups"

mkdir -p "$data" /run/postgresql
chown postgres:postgres "$data" /run/postgresql
chmod 700 "$data"
if [ ! -f "$data/PG_VERSION" ]; then
    new="$data.new"
    rm -rf "$new"
    mkdir -m 700 "$new"
    chown postgres:postgres "$new"
    password=/run/postgresql/password
    (umask 077; printf '%s\n' "$POSTGRES_PASSWORD" > "$password")
    chown postgres:postgres "$password"
    $as_postgres "$programs/initdb" -D "$new" -U postgres -E UTF8 --locale=C --pwfile="$password" \
        --auth-local=peer --auth-host=scram-sha-256
    rm "$password"
    printf 'host all all all scram-sha-256\n' >> "$new/pg_hba.conf"
    # Under its name only when it is whole: an interrupted start is made again.
    sync
    rmdir "$data"
    mv "$new" "$data"
fi
unset POSTGRES_PASSWORD
exec $as_postgres "$programs/postgres" -D "$data" -c listen_addresses='*' -c jit=off
