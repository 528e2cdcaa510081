"""SIGIO and SIGURG about sockets, pipes and terminals; deferred accepts, joined datagrams, settings. Prints what came."""
import fcntl, os, pty, signal, socket, struct, threading

F_SETSIG, F_GETSIG, F_SETOWN_EX, F_GETOWN_EX = 10, 11, 15, 16
FIOASYNC, SIOCATMARK = 0x5452, 0x8905
ALL = {signal.SIGIO, signal.SIGURG, signal.SIGRTMIN + 2}
signal.pthread_sigmask(signal.SIG_BLOCK, ALL)
BANDS = {1: "in", 2: "out", 3: "message", 4: "error", 5: "urgent", 6: "hang-up", 128: "kernel"}


def wait(what):
    info = signal.sigtimedwait(ALL, 20)
    name = "nothing" if info is None else {29: "SIGIO", 23: "SIGURG"}.get(info.si_signo, "real-time")
    print(what, name, "" if info is None else BANDS.get(info.si_code, info.si_code), flush=True)
    while signal.sigtimedwait(ALL, 0):
        pass


def own(descriptor):
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)
    assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ASYNC
    assert fcntl.fcntl(descriptor, fcntl.F_GETOWN) == os.getpid()


one, other = socket.socketpair()
own(one.fileno())
other.send(b"x")
wait("pair:")
flags = fcntl.fcntl(one, fcntl.F_GETFL)
fcntl.fcntl(one, fcntl.F_SETFL, flags & ~os.O_ASYNC)
other.send(b"x")
print("silenced:", signal.sigtimedwait(ALL, 0.2))

reader, writer = os.pipe()
own(reader)
os.write(writer, b"x")
wait("pipe:")

master, slave = pty.openpty()
own(slave)
os.write(master, b"line\n")
wait("terminal:")

listener = socket.create_server(("127.0.0.1", 0))
own(listener.fileno())
client = socket.create_connection(listener.getsockname())
wait("listener:")
server, _ = listener.accept()
# Without O_ASYNC, an owner hears of urgent data alone.
fcntl.fcntl(server, fcntl.F_SETOWN, -os.getpgrp())
print("group:", struct.unpack("ii", fcntl.fcntl(server, F_GETOWN_EX, bytes(8))) == (2, os.getpgrp()))
client.send(b"ab")
print("data:", signal.sigtimedwait(ALL, 0.2))
client.send(b"!", socket.MSG_OOB)
wait("urgent:")
print("mark:", struct.unpack("i", fcntl.ioctl(server, SIOCATMARK, bytes(4)))[0], end=" ")
print(server.recv(10), struct.unpack("i", fcntl.ioctl(server, SIOCATMARK, bytes(4)))[0], end=" ")
print(server.recv(1, socket.MSG_OOB))

# A real-time signal to one thread, with the descriptor and what happened.
fcntl.fcntl(server, F_SETOWN_EX, struct.pack("ii", 0, threading.get_native_id()))
print("owner:", struct.unpack("ii", fcntl.fcntl(server, F_GETOWN_EX, bytes(8)))[0])
fcntl.fcntl(server, F_SETSIG, signal.SIGRTMIN + 2)
assert fcntl.fcntl(server, F_GETSIG) == signal.SIGRTMIN + 2
fcntl.ioctl(server, FIOASYNC, struct.pack("i", 1))
client.send(b"more")
wait("real-time:")
for descriptor in (1 << 20, ):
    try:
        fcntl.fcntl(server, fcntl.F_SETOWN, descriptor)
    except OSError as error:
        print("no such owner:", os.strerror(error.errno))

# nginx's `deferred`: who connects and says nothing is not accepted.
deferring = socket.create_server(("127.0.0.1", 0))
deferring.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
silent = socket.create_connection(deferring.getsockname())
deferring.settimeout(0.3)
try:
    print("accepted", deferring.accept())
except TimeoutError:
    print("deferred")
silent.send(b"hello")
deferring.settimeout(20)
print(deferring.accept()[0].recv(9))

# UDP_GRO and UDP_SEGMENT, as QUIC servers use them.
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("127.0.0.1", 0))
receiver.setsockopt(socket.IPPROTO_UDP, 104, 1)
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.connect(receiver.getsockname())
sender.setsockopt(socket.IPPROTO_UDP, 103, 500)
sender.send(b"z" * 1800)
data, controls, _, _ = receiver.recvmsg(65535, 100)
print(len(data), [(level, kind, struct.unpack("i", value)[0]) for level, kind, value in controls])
print("done")
