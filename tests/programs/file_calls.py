"""System calls on files, sockets, terminals and event files, with their errors. Prints the same everywhere."""
import array, errno, fcntl, os, pty, select, signal, socket, stat, struct, tempfile, termios, threading, time, tty


def attempt(call, *arguments, **named):
    """The result of a call, or the name of its error."""
    try:
        return call(*arguments, **named)
    except OSError as error:
        return errno.errorcode.get(error.errno, error.errno)


def open_files():
    file = os.open("file", os.O_RDWR | os.O_CREAT, 0o640)
    print(os.write(file, b"hello world"), os.lseek(file, 0, 0), os.read(file, 5), os.pread(file, 3, 6))
    print(attempt(os.open, "file", os.O_CREAT | os.O_EXCL), attempt(os.open, "absent", 0))
    print(attempt(os.open, "file/below", 0), attempt(os.open, ".", os.O_WRONLY), attempt(os.lseek, file, -1, 0))
    print(oct(os.fstat(file).st_mode), os.fstat(file).st_size, attempt(os.read, 999, 1))
    print(os.lseek(file, 3, os.SEEK_END), os.write(file, b"z"), os.stat("file").st_size)
    os.ftruncate(file, 4)
    print(os.posix_fallocate(file, 0, 100), os.fstat(file).st_size, os.preadv(file, [bytearray(3)], 0))
    other = os.dup(file)
    print(os.dup2(file, 50), fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 60), fcntl.fcntl(60, fcntl.F_GETFD))
    fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND | os.O_NONBLOCK)
    print(oct(fcntl.fcntl(other, fcntl.F_GETFL)), attempt(os.dup2, 999, 5))
    os.closerange(50, 61)
    print(attempt(os.fstat, 50), attempt(os.fstat, 60))
    place = os.open(".", os.O_PATH)
    print(attempt(os.read, place, 1), attempt(os.fchmod, place, 0o700), os.stat("file", dir_fd=place).st_size)


def pipes():
    reader, writer = os.pipe()
    print(attempt(os.lseek, reader, 0, 0), attempt(os.pread, reader, 1, 0), attempt(os.read, writer, 1))
    os.set_blocking(reader, False)
    print(attempt(os.read, reader, 1), os.write(writer, b"abc"), os.read(reader, 2), os.read(reader, 2))
    os.close(writer)
    print(os.read(reader, 1))
    reader, writer = os.pipe()
    os.close(reader)
    print(attempt(os.write, writer, b"x"))
    print(attempt(os.write, os.open("/dev/full", os.O_WRONLY), b"x"), os.read(os.open("/dev/zero", 0), 3))


def names():
    os.mkdir("folder")
    print(attempt(os.mkdir, "folder"), attempt(os.rmdir, "file"), attempt(os.unlink, "folder"))
    os.link("file", "second")
    print(os.stat("file").st_nlink, attempt(os.link, "file", "second"), attempt(os.link, "folder", "third"))
    os.symlink("file", "link")
    print(os.readlink("link"), os.lstat("link").st_size, attempt(os.readlink, "file"))
    os.rename("second", "folder/second")
    print(os.listdir("folder"), attempt(os.rmdir, "folder"), attempt(os.rename, "folder", "folder/x"))
    os.symlink("loop", "loop")
    print(attempt(os.stat, "loop"), attempt(os.open, "link", os.O_NOFOLLOW), attempt(os.stat, "x" * 256))
    os.chmod("file", 0o755)
    os.utime("file", ns=(1500000000123456789, 1600000000000000001))
    found = os.stat("file")
    print(oct(found.st_mode), found.st_atime_ns, found.st_mtime_ns)
    os.mkfifo("fifo")
    print(stat.S_ISFIFO(os.stat("fifo").st_mode), attempt(os.open, "fifo", os.O_WRONLY | os.O_NONBLOCK))
    for number in range(300):
        open(f"folder/{number}", "w").close()
    print(len(os.listdir("folder")), sorted(os.listdir(".")))


def locks():
    one, other = open("locked", "w"), open("locked", "w")
    fcntl.flock(one, fcntl.LOCK_EX)
    print(attempt(fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB))
    fcntl.lockf(one, fcntl.LOCK_EX, 10)
    child = os.fork()
    if child == 0:
        mine = open("locked", "w")
        wanted = fcntl.LOCK_EX | fcntl.LOCK_NB
        print(attempt(fcntl.lockf, mine, wanted, 5), attempt(fcntl.lockf, mine, wanted, 5, 20), flush=True)
        os._exit(0)
    os.waitpid(child, 0)


def readiness():
    reader, writer = os.pipe()
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    poll.register(999, select.POLLIN)
    print([event for _, event in poll.poll(0)])
    poll.unregister(999)
    start = time.monotonic()
    print(poll.poll(30), time.monotonic() - start >= 0.029)
    epoll = select.epoll()
    epoll.register(reader, select.EPOLLIN | select.EPOLLET)
    os.write(writer, b"x")
    print(len(epoll.poll(1)), epoll.poll(0), select.select([reader], [writer], [], 0) == ([reader], [writer], []))
    print(attempt(epoll.register, reader, 1), attempt(epoll.unregister, writer))
    print(attempt(epoll.register, os.open("file", 0), 1), attempt(epoll.register, epoll.fileno(), 1))
    timer = threading.Timer(0.02, lambda: os.write(writer, b"y"))
    timer.start()
    print(len(epoll.poll(5)))
    timer.join()
    os.close(writer)
    print([event for _, event in poll.poll(0)])
    counter = os.eventfd(3)
    print(os.eventfd_read(counter), os.eventfd_write(counter, 7), os.read(counter, 8))


def sockets():
    credentials = struct.pack("3i", os.getpid(), os.getuid(), os.getgid())
    one, other = socket.socketpair()
    one.sendall(b"hello")
    print(other.recv(2, socket.MSG_PEEK), other.recv(10), repr(one.getsockname()))
    one.shutdown(socket.SHUT_WR)
    print(other.recv(1), other.send(b"back"), one.recv(9))
    other.close()
    print(attempt(one.send, b"x"), one.recv(1))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("socket")
    print(attempt(listener.accept), stat.S_ISSOCK(os.stat("socket").st_mode))
    listener.listen(5)
    client = socket.socket(socket.AF_UNIX)
    client.connect("socket")
    server, peer = listener.accept()
    print(repr(peer), server.getsockname(), client.getpeername())
    print(server.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12) == credentials)
    reader, writer = os.pipe()
    socket.send_fds(client, [b"files"], [reader, writer])
    message, files, flags, _ = socket.recv_fds(server, 10, 5)
    os.write(files[1], b"through")
    print(message, len(files), flags, os.read(reader, 10))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    client.sendmsg([b"with credentials"])
    message, ancillary, flags, _ = server.recvmsg(20, 100)
    print(message, [data == credentials for _, _, data in ancillary], flags)
    late = socket.socket(socket.AF_UNIX)
    print(attempt(late.connect, "absent"), attempt(late.connect, "file"), attempt(late.bind, "socket"))
    datagrams, sender = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    datagrams.bind("datagrams")
    sender.sendto(b"a datagram", "datagrams")
    print(datagrams.recvfrom(4), attempt(datagrams.recv, 1, socket.MSG_DONTWAIT))
    sender.bind("sender")
    sender.sendto(b"named", "datagrams")
    print(datagrams.recvfrom(10), attempt(sender.sendto, b"x" * 300000, "datagrams"), attempt(sender.send, b"x"))
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one.send(b"abc")
    one.send(b"de")
    print(other.recv(2), other.recv(9), attempt(client.connect, "datagrams"))
    waiting = array.array("i", [0])
    client.send(b"12345")
    fcntl.ioctl(server, termios.FIONREAD, waiting)
    print(waiting[0])


def terminals():
    master, slave = pty.openpty()
    print(os.isatty(master), os.isatty(slave), os.ttyname(slave).startswith("/dev/pts/"))
    os.write(master, b"lime\x7f\x7fne\n")
    print(os.read(slave, 100))
    os.write(slave, b"out\n")
    shown = b""
    while not shown.endswith(b"out\r\n"):
        shown += os.read(master, 100)
    print(shown)
    tty.setraw(slave)
    os.write(master, b"\x03x")
    print(os.read(slave, 100))
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 100, 0, 0))
    print(tuple(os.get_terminal_size(master)))
    os.close(slave)
    print(attempt(os.read, master, 1))
    child, master = pty.fork()
    if child == 0:
        signal.signal(signal.SIGINT, lambda *_: os._exit(7))
        os.write(1, b"ready" if os.tcgetpgrp(0) == os.getpgrp() else b"not mine")
        time.sleep(10)
        os._exit(1)
    print(os.read(master, 100))
    os.write(master, b"\x03")
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def copies():
    with open("large", "wb") as file:
        file.write(bytes(range(256)) * 1000)
    source, target = os.open("large", os.O_RDONLY), os.open("copy", os.O_RDWR | os.O_CREAT)
    print(os.sendfile(target, source, 0, 256000), os.lseek(source, 0, os.SEEK_CUR))
    print(open("large", "rb").read() == open("copy", "rb").read(), os.copy_file_range(source, target, 1000, 0, 0))
    memory = os.memfd_create("memory")
    os.write(memory, b"kept")
    print(os.pread(memory, 9, 0), os.readlink(f"/proc/self/fd/{memory}"))


os.chdir(tempfile.mkdtemp())
os.umask(0o022)
for part in [open_files, pipes, names, locks, readiness, sockets, terminals, copies]:
    print("==", part.__name__, flush=True)
    part()
