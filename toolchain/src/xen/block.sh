#!/bin/sh
# Gives a domain's disk a loop device.
export PATH=/bin:/usr/bin
P=$XENBUS_PATH
case $1 in
add) file=$(xenstore-read $P/params); device=$file
  if [ -f "$file" ]; then
    # Another disk's script may take the same one; the toolstack waits for 10 s.
    for _ in $(seq 100); do
      device=$(losetup -f) && losetup $device "$file" 2>/tmp/losetup && break
      device=; sleep 0.1
    done
    if [ -z "$device" ]; then
      xenstore-write $P/hotplug-error "no loop device for $file: $(cat /tmp/losetup)" $P/hotplug-status error
      exit 1
    fi
    xenstore-write $P/node $device
  fi
  xenstore-write $P/physical-device $(stat -L -c %t:%T $device) $P/physical-device-path $device \
    $P/hotplug-status connected;;
remove) device=$(xenstore-read $P/node) && losetup -d $device;;
esac
exit 0
