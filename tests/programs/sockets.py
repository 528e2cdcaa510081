"""Sockets over the loopback: prints the same on Linux and in an image."""

import array
import errno
import fcntl
import os
import select
import socket
import struct
import threading

LOCAL = "127.0.0.1"


def title(text):
    print(f"== {text}", flush=True)


def failure(action, *arguments):
    """The name of the error that an action fails with."""
    try:
        return repr(action(*arguments))
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))


def listener(family=socket.AF_INET, host=LOCAL):
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((host, 0))
    server.listen(8)
    return server


def pair():
    server = listener()
    client = socket.create_connection(server.getsockname())
    accepted, peer = server.accept()
    assert peer == client.getsockname()
    server.close()
    return client, accepted


def events(poller, wait=1000):
    """What a poller finds, by the name that the descriptor has here."""
    return sorted((names[fd], mask) for fd, mask in poller.poll(wait))


names = {}


def watch(poller, name, file, mask):
    names[file.fileno()] = name
    poller.register(file, mask)


title("stream")
client, server = pair()
client.sendall(b"hello")
print(server.recv(2, socket.MSG_PEEK), server.recv(3), server.recv(100))
print(failure(server.recv, 1, socket.MSG_DONTWAIT))
size = 1 << 20
writer = threading.Thread(target=lambda: (client.sendall(bytes(size)), client.shutdown(socket.SHUT_WR)))
writer.start()
total = 0
while data := server.recv(65536):
    total += len(data)
writer.join()
print(total, failure(client.send, b"x"))
server.sendall(b"late")
server.close()
print(client.recv(10), client.recv(10))
client.close()

title("connect")
probe = listener()
closed = probe.getsockname()
probe.close()
client = socket.socket()
print(failure(client.connect, closed))
client = socket.socket()
client.setblocking(False)
print(failure(client.connect, closed))
poller = select.poll()
watch(poller, "refused", client, select.POLLIN | select.POLLOUT)
print(events(poller))
print(errno.errorcode[client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)])
print(client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
server = listener()
client = socket.socket()
client.setblocking(False)
print(failure(client.connect, server.getsockname()))
select.select([], [client], [])
print(failure(client.connect, server.getsockname()), failure(client.connect, server.getsockname()))
print(failure(client.listen), failure(client.bind, (LOCAL, 0)))
fresh = socket.socket()
print(failure(fresh.getpeername), failure(fresh.recv, 1), failure(fresh.accept), failure(fresh.shutdown, 2))
print(failure(fresh.bind, server.getsockname()), failure(fresh.bind, ("203.0.113.77", 0)))
server.close()

title("epoll")
client, server = pair()
level, edge = select.epoll(), select.epoll()
both = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP
watch(level, "level", server, both)
watch(edge, "edge", server, both | select.EPOLLET)
print(events(level, 1), events(edge, 1), events(edge, 0))
client.send(b"abc")
print(events(level, 1), events(level, 1), events(edge, 1), events(edge, 0))
client.shutdown(socket.SHUT_WR)
select.select([], [], [], 0.01)
print(events(level, 1), events(edge, 1), events(edge, 0))
server.shutdown(socket.SHUT_WR)
select.select([], [], [], 0.01)
print(events(level, 1), events(edge, 1))
client.close()
server.close()
reset, server = pair()
reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
watch(level, "reset", server, select.EPOLLIN)
reset.close()
print(events(level, 1000), failure(server.recv, 1), failure(server.recv, 1))
server.close()
waiting = listener()
watch(level, "listener", waiting, select.EPOLLIN)
print(events(level, 0))
client = socket.create_connection(waiting.getsockname())
print(events(level))
waiting.accept()
print(events(level, 0))

title("timeouts and flags")
client, server = pair()
server.settimeout(0.01)
try:
    server.recv(1)
except TimeoutError:
    print("timed out")
server.setblocking(True)
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("qq", 0, 2000))
print(failure(server.recv, 1))
thread = threading.Thread(target=lambda: [client.sendall(piece) for piece in (b"ab", b"cd", b"ef")])
thread.start()
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("qq", 0, 0))
print(server.recv(6, socket.MSG_WAITALL))
thread.join()
client.send(b"ab!", socket.MSG_OOB)
client.send(b"cd")
select.select([], [], [server], 1)
print(server.recv(1, socket.MSG_OOB), server.recv(9), server.recv(9))
print(failure(server.recv, 1, socket.MSG_OOB))
client.send(b"12345")
select.select([server], [], [])
waiting = array.array("i", [0])
fcntl.ioctl(server, 0x541B, waiting)
print("FIONREAD", waiting[0])
print("truncated", server.recv_into(bytearray(4), 4, socket.MSG_TRUNC), server.recv(9))

title("options")
sock = socket.socket()
for level_, name, value in [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.SOL_SOCKET, socket.SO_REUSEPORT, 1),
    (socket.SOL_SOCKET, socket.SO_BROADCAST, 1),
    (socket.SOL_SOCKET, socket.SO_OOBINLINE, 1),
    (socket.SOL_SOCKET, socket.SO_RCVLOWAT, 4),
    (socket.SOL_SOCKET, socket.SO_PRIORITY, 3),
    (socket.SOL_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_TCP, socket.TCP_CORK, 1),
    (socket.SOL_TCP, socket.TCP_KEEPIDLE, 33),
    (socket.SOL_TCP, socket.TCP_KEEPINTVL, 34),
    (socket.SOL_TCP, socket.TCP_KEEPCNT, 5),
    (socket.SOL_TCP, socket.TCP_SYNCNT, 3),
    (socket.SOL_TCP, socket.TCP_USER_TIMEOUT, 4000),
    (socket.SOL_TCP, socket.TCP_NOTSENT_LOWAT, 16384),
    (socket.SOL_IP, socket.IP_TOS, 0x10),
    (socket.SOL_IP, socket.IP_TTL, 9),
]:
    sock.setsockopt(level_, name, value)
    print(level_, name, sock.getsockopt(level_, name))
sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10000)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10000)
print(sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF), sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))
print(sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE), sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN))
print(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL), sock.getsockopt(socket.SOL_TCP, socket.TCP_MAXSEG))
print(failure(sock.setsockopt, socket.SOL_TCP, 31, b"nothing"), failure(sock.getsockopt, 282, 1))
print(failure(sock.setsockopt, socket.SOL_TCP, socket.TCP_KEEPIDLE, 0), failure(sock.setsockopt, 1, 13, b"abc"))
print(failure(socket.socket, socket.AF_INET, socket.SOCK_STREAM, 17), failure(socket.socket, 27, 1))

sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for name in (socket.IP_MULTICAST_TTL, socket.IP_MULTICAST_LOOP):
    sock.setsockopt(socket.SOL_IP, name, 0)
    print(name, sock.getsockopt(socket.SOL_IP, name))

title("datagrams")
for family, host in [(socket.AF_INET, LOCAL), (socket.AF_INET6, "::1")]:
    one = socket.socket(family, socket.SOCK_DGRAM)
    other = socket.socket(family, socket.SOCK_DGRAM)
    one.bind((host, 0))
    other.bind((host, 0))
    for length in (0, 1, 1000, 60000):
        one.sendto(bytes(length), other.getsockname())
        data, source = other.recvfrom(65536)
        assert source == one.getsockname()
        print(len(data), end=" ")
    print(failure(one.sendto, bytes(65536), other.getsockname()))
    other.connect(one.getsockname())
    stranger = socket.socket(family, socket.SOCK_DGRAM)
    stranger.sendto(b"no", other.getsockname())
    one.sendto(b"yes", other.getsockname())
    print(other.recv(9), failure(other.recv, 9, socket.MSG_DONTWAIT))
    one.sendto(b"long datagram", other.getsockname())
    data, _, flags, _ = other.recvmsg(4)
    print(data, flags == socket.MSG_TRUNC)
    one.close()
    other.send(b"anybody?")
    print(failure(other.recv, 9))
print(failure(socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto, b"x", ("255.255.255.255", 9)) in ("EACCES", "ENETUNREACH"))
print(failure(socket.socket(socket.AF_INET, socket.SOCK_DGRAM).send, b"x"))

title("ancillary data")
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind((LOCAL, 0))
IP_PKTINFO, IP_RECVTTL, IP_RECVTOS, IP_RECVERR = 8, 12, 13, 11
for option in (IP_PKTINFO, IP_RECVTTL, IP_RECVTOS):
    receiver.setsockopt(socket.SOL_IP, option, 1)
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.sendmsg([b"da", b"ta"], [(socket.SOL_IP, socket.IP_TTL, struct.pack("i", 5))], 0, receiver.getsockname())
data, controls, flags, source = receiver.recvmsg(100, 1000)
print(data, sorted(controls), flags)
sender.setsockopt(socket.SOL_IP, IP_RECVERR, 1)
nobody = receiver.getsockname()
receiver.close()
sender.sendto(b"lost", nobody)
poller = select.poll()
watch(poller, "error", sender, 0)
print(events(poller))
data, controls, flags, destination = sender.recvmsg(100, 1000, socket.MSG_ERRQUEUE)
print(data, flags == socket.MSG_ERRQUEUE, destination == nobody)
for level_, kind, value in controls:
    print(level_, kind, value[:16], value[20:24])
print(failure(sender.recv, 1, socket.MSG_DONTWAIT), failure(sender.recvmsg, 1, 100, socket.MSG_ERRQUEUE))

title("both versions")
dual = socket.socket(socket.AF_INET6)
dual.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
dual.bind(("::", 0))
dual.listen()
port = dual.getsockname()[1]
client = socket.create_connection((LOCAL, port))
accepted, peer = dual.accept()
print(peer[0], accepted.getsockname()[0], client.getpeername()[0])
print(failure(dual.setsockopt, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1))
only = socket.socket(socket.AF_INET6)
only.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
print(failure(only.bind, ("::", port)))

title("sendfile and splice")
path = "/tmp/sockets.data"
content = bytes(range(256)) * 1024
with open(path, "wb") as file:
    file.write(content)
client, server = pair()
with open(path, "rb") as file:
    done = 0
    received = b""
    while done < len(content):
        done += os.sendfile(client.fileno(), file.fileno(), done, 50000)
        while len(received) < done:
            received += server.recv(65536)
print(received == content)
reader, writer = os.pipe()
client.sendall(b"through a pipe")
print(os.splice(server.fileno(), writer, 100), os.splice(reader, server.fileno(), 100))
print(client.recv(100))
os.unlink(path)

title("names")
print([name for _, name in socket.if_nameindex()][:1], socket.if_nametoindex("lo"))
print(socket.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM))
print(socket.getaddrinfo("localhost", "80", socket.AF_INET, socket.SOCK_STREAM)[0][4])
request = struct.pack("16s16x", b"lo")
SIOCGIFADDR, SIOCGIFFLAGS, SIOCGIFMTU, SIOCGIFINDEX = 0x8915, 0x8913, 0x8921, 0x8933
print(socket.inet_ntoa(fcntl.ioctl(sender, SIOCGIFADDR, request)[20:24]))
print(struct.unpack("h", fcntl.ioctl(sender, SIOCGIFFLAGS, request)[16:18])[0] & 9)
print(struct.unpack("i", fcntl.ioctl(sender, SIOCGIFMTU, request)[16:20]))
print(struct.unpack("i", fcntl.ioctl(sender, SIOCGIFINDEX, request)[16:20]))
print(failure(fcntl.ioctl, sender, SIOCGIFADDR, struct.pack("16s16x", b"none0")))

title("threads")
server = listener()


def serve():
    for _ in range(20):
        connection, _ = server.accept()
        threading.Thread(target=echo, args=(connection,)).start()


def echo(connection):
    with connection:
        while data := connection.recv(4096):
            connection.sendall(data)


def ask(number, results):
    with socket.create_connection(server.getsockname()) as connection:
        message = bytes([number]) * 3000
        for _ in range(20):
            connection.sendall(message)
            answer = b""
            while len(answer) < len(message):
                answer += connection.recv(4096)
            results.append(answer == message)


results = []
acceptor = threading.Thread(target=serve)
acceptor.start()
clients = [threading.Thread(target=ask, args=(number, results)) for number in range(20)]
for thread in clients:
    thread.start()
for thread in clients:
    thread.join()
acceptor.join()
print(len(results), all(results))
