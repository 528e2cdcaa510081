# What dom0 does for `run`: the bridges of the domain's interfaces, then the domain, whose console, status and messages
# are ports of a virtio console.
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk virtio_console \
  failover net_failover virtio_net; do
  insmod /lib/modules/$module.ko
done
index=0
for link in /sys/class/net/eth*; do
  [ -e $link ] || break
  brctl addbr guest$index; brctl addif guest$index ${link##*/}
  ip link set ${link##*/} up; ip link set guest$index up
  index=$((index + 1))
done
echo ready > /dev/vport0p2
/guest/rumprun-bake domain /guest/domain.cfg NAME 0<>/dev/vport0p1 1>&0 2>/dev/vport0p3 &
run=$!
sh -c "read word < /dev/vport0p4 && kill -TERM $run" &
wait $run
echo "exit $?" > /dev/vport0p2
