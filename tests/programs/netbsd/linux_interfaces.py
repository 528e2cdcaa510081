"""What a Linux program is told of NetBSD's interfaces. Prints it."""
import ctypes
import errno
import fcntl
import ipaddress
import os
import socket
import struct


class Interface(ctypes.Structure):
    pass


Interface._fields_ = [
    ("next", ctypes.POINTER(Interface)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.POINTER(ctypes.c_ubyte)),
    ("mask", ctypes.POINTER(ctypes.c_ubyte)),
]


def addresses():
    """getifaddrs(3), which asks by netlink."""
    first = ctypes.POINTER(Interface)()
    assert ctypes.CDLL(None).getifaddrs(ctypes.byref(first)) == 0
    here = first
    while here:
        entry = here.contents
        if entry.address:
            family = entry.address[0]
            if family == socket.AF_INET:
                yield entry.name.decode(), ipaddress.ip_address(bytes(entry.address[4:8]))
            elif family == socket.AF_INET6:
                yield entry.name.decode(), ipaddress.ip_address(bytes(entry.address[8:24]))
        here = entry.next


def request(number, name, argument=bytes(24)):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inet:
        return fcntl.ioctl(inet, number, name.encode().ljust(16, b"\0") + argument)[16:]


def counted():
    for line in open("/proc/net/dev"):
        name, _, rest = line.partition(":")
        if name.strip() == "eth0":
            return int(rest.split()[9])


print("names", [name for _, name in socket.if_nameindex()])
for name, address in addresses():
    if name == "eth0" and not address.is_link_local:
        print("address", name, address)
link_local = [address for name, address in addresses() if name == "eth0" and address.is_link_local]
print("link-local", len(link_local))
print("ioctl", socket.inet_ntoa(request(0x8915, "eth0")[4:8]), socket.inet_ntoa(request(0x891b, "eth0")[4:8]))
print("mtu", struct.unpack("I", request(0x8921, "eth0")[:4])[0], open("/sys/class/net/eth0/mtu").read().strip())
print("hardware", request(0x8927, "eth0")[2:8].hex(":"), open("/sys/class/net/eth0/address").read().strip())
for line in open("/proc/net/route"):
    name, destination, gateway = line.split()[:3]
    if destination == "00000000":
        print("route", name, socket.inet_ntoa(bytes.fromhex(gateway)[::-1]))
before = counted()
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inet:
    for _ in range(10):
        inet.sendto(b"somebody there?", (os.environ["GATEWAY"], 9))
print("counted", counted() > before)
try:
    request(0x8922, "eth0", struct.pack("I", 1200).ljust(24, b"\0"))
except OSError as error:
    print("set", errno.errorcode[error.errno])
