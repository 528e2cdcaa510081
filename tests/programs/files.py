"""What a program can do with files and names, and every error it gets for it. Prints the same on Linux and here.

The argument is the directory to work in.
"""

import errno
import fcntl
import mmap
import os
import select
import shutil
import signal
import stat
import sys
import tempfile


def result(call, *arguments, **named):
    """What a call returns, or the name of its error."""
    try:
        return call(*arguments, **named)
    except OSError as error:
        return errno.errorcode[error.errno]


def names():
    print("mkdir", result(os.mkdir, "d"), result(os.mkdir, "d"), result(os.mkdir, "slash/"), result(os.mkdir, "x/y"))
    with open("f", "w") as file:
        file.write("hello")
    status = os.stat("f")
    print("stat", status.st_size, oct(status.st_mode), status.st_nlink)
    os.link("f", "g")
    os.symlink("f", "s")
    os.symlink("l2", "l1")
    os.symlink("l1", "l2")
    print("links", os.readlink("s"), os.stat("s").st_nlink, result(os.readlink, "f"), result(os.link, "d", "e"))
    print("loops", result(os.stat, "l1"), result(os.open, "s", os.O_NOFOLLOW))
    print("list", sorted(os.listdir(".")), [entry.name for entry in os.scandir(".") if entry.name == "s" and entry.is_symlink()])
    os.rename("g", "d/g")
    print("rename", result(os.rename, "d", "d/x"), result(os.rename, "f", "d"), result(os.rename, "d", "f"),
          result(os.replace, "f", "none/x"), result(os.rename, "f", "f"))
    print("remove", result(os.rmdir, "d"), result(os.unlink, "d"), result(os.rmdir, "f"), result(os.rmdir, "none"))
    print("open", result(os.open, "d", os.O_RDWR), result(os.open, "d/x", os.O_RDONLY), result(os.open, "f/", os.O_RDONLY),
          result(os.open, "z/", os.O_CREAT), result(os.open, "f", os.O_CREAT | os.O_EXCL), result(os.open, "f", os.O_DIRECTORY))
    print("long", result(os.open, "n" * 256, os.O_CREAT), result(os.stat, "/" + "a/" * 2048))
    here = os.open(".", os.O_RDONLY)
    print("at", os.stat("f", dir_fd=here).st_size, result(os.unlink, "s", dir_fd=here), result(os.fsync, here),
          result(os.fchdir, here), result(os.chdir, "f"), os.path.realpath("d/../f") == os.path.join(os.getcwd(), "f"))
    os.makedirs("deep/" + "/".join("abcdefgh"))
    shutil.copytree("deep", "copy")
    print("tree", sum(len(directories) for _, directories, _ in os.walk("copy")))
    shutil.rmtree("copy")


def data():
    file = os.open("h", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
    print("write", os.write(file, b"x" * 10000), os.pread(file, 5, 9998), os.lseek(file, 0, os.SEEK_END),
          result(os.lseek, file, -1, os.SEEK_SET), oct(os.fstat(file).st_mode))
    os.ftruncate(file, 100)
    os.ftruncate(file, 5000)
    print("truncate", os.pread(file, 10, 95), os.fstat(file).st_size, result(os.truncate, "h", -1), result(os.truncate, "d", 0))
    with mmap.mmap(file, 5000) as memory:
        memory[4990:5000] = b"0123456789"
        print("mmap", os.pread(file, 20, 4985))
        os.pwrite(file, b"ZZ", 0)
        print(memory[0:3], memory.flush())
    print("space", result(os.posix_fallocate, file, 0, 20000), os.fstat(file).st_size, os.statvfs(".").f_namemax)
    with os.fdopen(os.open("append", os.O_WRONLY | os.O_CREAT | os.O_APPEND), "wb", 0) as append:
        append.write(b"1")
        append.seek(0)
        append.write(b"2")
    with open("append") as append:
        print("append", append.read(), os.access("append", os.X_OK), result(os.chown, "append", -1, -1))
    os.chmod("h", 0o600)
    os.utime("h", ns=(10**9, 2 * 10**9))
    status = os.stat("h")
    print("times", oct(status.st_mode), status.st_atime_ns, status.st_mtime_ns)
    unnamed = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(unnamed, b"unnamed")
    print("copy", os.copy_file_range(unnamed, file, 3, 0, 0), os.pread(file, 3, 0), os.sendfile(file, unnamed, 0, 3))
    block = "0123456789" * 100
    with open("large", "w") as large:
        for _ in range(3000):
            large.write(block)
    with open("large") as large:
        print("large", os.stat("large").st_size, large.read() == block * 3000)


def locks():
    first, second = os.open("h", os.O_RDWR), os.open("h", os.O_RDWR)
    print("flock", result(fcntl.flock, first, fcntl.LOCK_EX), result(fcntl.flock, second, fcntl.LOCK_EX | fcntl.LOCK_NB))
    fcntl.lockf(first, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)
    child = os.fork()
    if child == 0:
        outcome = result(fcntl.lockf, second, fcntl.LOCK_EX | fcntl.LOCK_NB, 3, 6)
        os._exit(0 if outcome in ("EAGAIN", "EACCES") else 1)
    print("lockf", os.waitpid(child, 0)[1])


def pipes():
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.mkfifo("p")
    print("fifo", stat.S_ISFIFO(os.stat("p").st_mode), result(os.open, "p", os.O_WRONLY | os.O_NONBLOCK))
    reader, writer = os.pipe()
    print("pipe", os.write(writer, b"a" * 70), len(os.read(reader, 100)), fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ),
          result(os.read, writer, 1))
    os.close(reader)
    print("closed", result(os.write, writer, b"x"))
    several = [os.pipe() for _ in range(3)]
    poll = select.poll()
    for reader, _ in several:
        poll.register(reader, select.POLLIN)
    os.write(several[1][1], b".")
    print("poll", [event for _, event in poll.poll(0)])


def memory_files():
    file = os.memfd_create("name", os.MFD_ALLOW_SEALING)
    os.write(file, b"sealed")
    print("seal", fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE),
          result(os.write, file, b"y"), result(os.ftruncate, file, 1), os.readlink(f"/proc/self/fd/{file}"))


directory = tempfile.mkdtemp(dir=sys.argv[1])
os.chdir(directory)
os.umask(0o022)
names()
data()
locks()
pipes()
memory_files()
print("proc", os.readlink("/proc/self/cwd") == directory, len(open("/proc/self/maps").read()) > 100)
os.chdir("/")
shutil.rmtree(directory)
print("gone", not os.path.exists(directory))
