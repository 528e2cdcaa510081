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
# retry COMMAND...: runs the command until it succeeds, for $patience seconds at most, and longer on a busy host; says so if it
# took long.
patience=90
retry() {
  began=$(date +%s) tried=0
  until "$@" >/dev/null 2>&1; do
    [ $(($(date +%s) - began)) -lt $patience ] || [ $tried -lt $patience ] || fail "$*"
    tried=$((tried + 1))
    sleep 0.1
  done
  began=$(($(date +%s) - began))
  [ $began -lt 10 ] || echo "took $began s, tried $tried times: $*"
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
