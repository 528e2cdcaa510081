#!/bin/sh
# Gives a domain's disk a loop device.
export PATH=/bin:/usr/bin
P=$XENBUS_PATH
case $1 in
add) file=$(xenstore-read $P/params); device=$file
  if [ -f "$file" ]; then
    # Another disk's script may take the same one.
    until device=$(losetup -f) && losetup $device "$file" 2>/dev/null; do sleep 0.1; done
    xenstore-write $P/node $device
  fi
  xenstore-write $P/physical-device $(stat -L -c %t:%T $device) $P/physical-device-path $device \
    $P/hotplug-status connected;;
remove) device=$(xenstore-read $P/node) && losetup -d $device;;
esac
exit 0
