"""Internet sockets of a Linux program: blocking, with timeouts, epoll, signals, options. Ends with a line that says so."""
import errno, select, signal, socket, threading, time

ANY = ("127.0.0.1", 0)


def pair(family=socket.AF_INET, address="127.0.0.1"):
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, 0))
    listener.listen(5)
    client = socket.create_connection(listener.getsockname()[:2])
    server, peer = listener.accept()
    assert peer[:2] == client.getsockname()[:2], (peer, client.getsockname())
    listener.close()
    return client, server


def refused(action, *numbers):
    try:
        action()
    except OSError as error:
        assert error.errno in numbers, error
        return True
    raise AssertionError("it worked")


# A stream in both directions, larger than all buffers.
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    client, server = pair(family, address)
    data = bytes(range(256)) * 4096
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    time.sleep(0.1)
    received = b""
    while len(received) < len(data):
        received += server.recv(100_000)
    sender.join()
    assert received == data
    client.sendall(b"peek")
    assert server.recv(4, socket.MSG_PEEK) == b"peek"
    assert server.recv(4, socket.MSG_WAITALL) == b"peek"
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    server.sendall(b"last")
    server.close()
    assert client.recv(10) == b"last" and client.recv(10) == b""
    client.close()

# An IPv6 socket that takes IPv4 connections.
with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
    client = socket.create_connection(("127.0.0.1", listener.getsockname()[1]))
    server, peer = listener.accept()
    assert peer[0] == "::ffff:127.0.0.1", peer
    client.close(), server.close()

# Waits end: by a time, by a signal's handler, by the other end.
listener = socket.create_server(ANY)
refused(lambda: socket.create_server(listener.getsockname(), reuse_port=False), errno.EADDRINUSE)
listener.settimeout(0.2)
began = time.monotonic()
try:
    listener.accept()
    raise AssertionError("nobody connected")
except TimeoutError:
    assert 0.15 < time.monotonic() - began
listener.settimeout(None)


class Rung(Exception):
    pass


def ring(number, frame):
    raise Rung


signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, 0.2)
try:
    listener.accept()
    raise AssertionError("nobody connected")
except Rung:
    pass
client, server = pair()
signal.setitimer(signal.ITIMER_REAL, 0.2)
try:
    server.recv(1)
    raise AssertionError("nothing was sent")
except Rung:
    pass
client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
client.close()
refused(lambda: server.recv(1), errno.ECONNRESET)
server.close()

# epoll: level and edge; what is gone is told.
poll = select.epoll()
client, server = pair()
poll.register(server, select.EPOLLIN | select.EPOLLRDHUP)
assert poll.poll(0) == []
client.sendall(b"one")
assert poll.poll(10) == [(server.fileno(), select.EPOLLIN)]
assert poll.poll(10) == [(server.fileno(), select.EPOLLIN)]
assert server.recv(10) == b"one" and poll.poll(0) == []
poll.modify(server, select.EPOLLIN | select.EPOLLET)
client.sendall(b"two")
assert poll.poll(10) == [(server.fileno(), select.EPOLLIN)] and poll.poll(0.1) == []
assert server.recv(10) == b"two"
poll.modify(server, select.EPOLLIN | select.EPOLLRDHUP)
server.setblocking(False)
refused(lambda: server.recv(1), errno.EAGAIN)
client.close()
assert poll.poll(10)[0][1] & select.EPOLLRDHUP
poll.close(), server.close()

# A full buffer, and room in it again.
client, server = pair()
client.setblocking(False)
sent = 0
try:
    while True:
        sent += client.send(bytes(65536))
except BlockingIOError:
    pass
room = select.poll()
room.register(client, select.POLLOUT)


def read_all():
    left = sent
    while left:
        left -= len(server.recv(65536))


reader = threading.Thread(target=read_all)
reader.start()
assert room.poll(10_000)
reader.join()
client.close(), server.close()

# Connecting without waiting.
client = socket.socket()
client.setblocking(False)
assert client.connect_ex(listener.getsockname()) in (0, errno.EINPROGRESS)
watch = select.poll()
watch.register(client, select.POLLOUT)
assert watch.poll(10_000) and client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
server, _ = listener.accept()
client.close(), server.close()
gone = listener.getsockname()
listener.close()
refused(lambda: socket.create_connection(gone), errno.ECONNREFUSED)

# Datagrams.
one, other = socket.socket(type=socket.SOCK_DGRAM), socket.socket(type=socket.SOCK_DGRAM)
one.bind(ANY), other.bind(ANY)
one.sendto(b"a datagram", other.getsockname())
assert other.recvfrom(4) == (b"a da", one.getsockname())
other.settimeout(0.1)
try:
    other.recv(1)
    raise AssertionError("the rest is gone")
except TimeoutError:
    pass
other.settimeout(None)
other.setsockopt(socket.IPPROTO_IP, 8, 1)
one.connect(other.getsockname())
assert one.send(bytes(5000)) == 5000
data, control, flags, _ = other.recvmsg(9000, 200)
assert len(data) == 5000 and control[0][:2] == (0, 8) and control[0][2][8:] == bytes([127, 0, 0, 1]), control

# Options.
client, server = pair()
for level, name, value in ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
                           (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77), (socket.IPPROTO_IP, socket.IP_TTL, 9)):
    client.setsockopt(level, name, value)
    assert client.getsockopt(level, name) == value, (level, name)
assert client.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 100_000_000)
assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[0] == 1
refused(lambda: client.getsockopt(socket.IPPROTO_TCP, 4000), errno.ENOPROTOOPT)
print("sockets: passed", flush=True)
