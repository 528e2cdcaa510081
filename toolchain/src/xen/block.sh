#!/bin/sh
# Gives a domain's disk a loop device.
export PATH=/bin:/usr/bin
P=$XENBUS_PATH
case $1 in
add) file=$(xenstore-read $P/params); device=$file
  [ -f "$file" ] && { device=$(losetup -f); losetup $device "$file"; xenstore-write $P/node $device; }
  xenstore-write $P/physical-device $(stat -L -c %t:%T $device) $P/physical-device-path $device \
    $P/hotplug-status connected;;
remove) device=$(xenstore-read $P/node) && losetup -d $device;;
esac
exit 0
