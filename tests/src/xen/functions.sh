# What scripts of dom0 use.
# section TITLE COMMAND...: runs the command, its output between marks that the harness looks for.
section() {
  title=$1; shift
  echo "@@ begin $title"
  "$@" 2>&1
  echo "@@ end $title $?"
}
# fail WHAT: says what went wrong and everything that may tell why, and ends.
fail() {
  echo "@@ failed: $*"
  section list xl list
  section devices xenstore-ls /local/domain
  section links sh -c 'ip link; cat /proc/net/dev /proc/net/arp'
  section dmesg sh -c 'dmesg | tail -n 30'
  for log in /var/log/xen/console/*.log /var/log/xen/*.log; do [ -f $log ] && section "$log" tail -n 60 $log; done
  echo "@@ done"
  poweroff -f
  sleep 60
}
# now VARIABLE: sets it to the seconds since the start, by no program: waiting must leave the CPU to what is waited for.
now() { read seconds rest < /proc/uptime; eval $1=${seconds%.*}; }
# retry COMMAND...: runs the command until it succeeds, for $patience seconds at most, and longer on a busy host; says so if it
# took long.
patience=90
retry() {
  now began; tried=0
  until "$@" >/dev/null 2>&1; do
    now moment
    [ $((moment - began)) -lt $patience ] || [ $tried -lt $patience ] || fail "$*"
    tried=$((tried + 1))
    sleep 0.1
  done
  now moment
  [ $((moment - began)) -lt 10 ] || echo "took $((moment - began)) s, tried $tried times: $*"
}
# attempt COMMAND...: runs a command that has to succeed, and says only then what it wrote.
attempt() { "$@" >/tmp/log 2>&1 || fail "$*: $(cat /tmp/log)"; }
# save NAME [OPTION...], restore: the domain, to a file and from it; it stays with `-c`.
save() { name=$1; shift; attempt xl save "$@" $name /run/saved; }
restore() { attempt xl restore /run/saved; rm /run/saved; }
# memory NAME MIB: whether the domain has so much.
memory() { [ "$(xl list $1 | tail -n 1 | sed 's/  */ /g' | cut -d ' ' -f 3)" = $2 ]; }
# backs DEVICE: whether dom0's backend says that it works; before, Linux's netback must not be unbound (it would end a watch twice).
backs() { [ "$(xenstore-read /local/domain/0/backend/$1/state)" = 4 ]; }
# hold: opens connections to the servers of a domain at 10.9.0.2; the one of port 7 gives back what it gets, that of port 8 counts.
hold() {
  mkfifo /tmp/say
  nc 10.9.0.2 7 < /tmp/say > /tmp/heard & exec 3> /tmp/say
  nc 10.9.0.2 8 > /tmp/counted &
}
say() { echo $1 >&3; }
counted() { [ $(wc -l < /tmp/counted) -ge $1 ]; }
# goes_on WORD: waits until both have brought something new.
goes_on() {
  say $1; retry grep -qx $1 /tmp/heard; retry counted $(($(wc -l < /tmp/counted) + 3))
  now moment; echo goes on: $1 after $moment s
}
# create NAME: starts the domain of /guest/NAME.cfg.
create() { xl create -q /guest/$1.cfg || fail create $1; }
# until_console NAME TEXT: waits until the domain's console shows the text.
until_console() { retry grep -q -- "$2" /var/log/xen/console/guest-$1.log; }
# finish NAME: waits until the domain has shut down, then tells how it ended and what its console showed.
finish() {
  id=$(xl domid $1) state=running
  for _ in $(seq 300); do
    case $(xl list $1 | tail -n 1 | sed 's/  */ /g' | cut -d ' ' -f 5) in
    *c*) state=crashed; break;;
    *s*) state=shutdown; break;;
    esac
    sleep 0.2
  done
  status=$(xenstore-read /local/domain/$id/data/status 2>/dev/null)
  section "console $1" cat /var/log/xen/console/guest-$1.log
  echo "@@ ended $1 $state ${status:-nothing}"
  xl destroy $1
}
