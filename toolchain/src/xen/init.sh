#!/bin/sh
# The first program of dom0: starts xenstore and the console daemon, then the test's script.
export PATH=/bin:/usr/bin
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev; mount -t tmpfs t /run
mkdir -p /run/xen /run/xenstored /run/lock /dev/pts; mount -t devpts p /dev/pts
for module in xen-privcmd xenfs xen-evtchn xen-gntdev xen-gntalloc llc stp bridge loop xen-netback xen-blkback; do
  insmod /lib/modules/$module.ko
done
mount -t xenfs x /proc/xen
tools=$(echo /usr/lib/xen-*/bin)
$tools/xenstored --pid-file /run/xen/xenstored.pid
until xenstore-read / >/dev/null 2>&1; do sleep 0.05; done
$tools/xen-init-dom0 >/dev/null
$tools/xenconsoled --log=guest --log-dir=/var/log/xen/console --pid-file=/run/xen/xenconsoled.pid
ip link set lo up; brctl addbr xenbr0; ip addr add 10.9.0.1/24 dev xenbr0; ip link set xenbr0 up
. /guest/run.sh
echo "@@ done"
poweroff -f
