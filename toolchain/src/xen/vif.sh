#!/bin/sh
# Puts a domain's interface on its bridge.
export PATH=/bin:/usr/bin
[ "$1" = online ] || exit 0
ip link set dev $vif up; ip link set dev $vif master $(xenstore-read $XENBUS_PATH/bridge)
xenstore-write $XENBUS_PATH/hotplug-status connected
