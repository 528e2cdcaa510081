"""What a Linux program does with files of NetBSD's kernel beyond what files.py does.

The arguments: what to do, and the directory to work in.
"""

import errno
import mmap
import os
import sys
import threading
import time

what, directory = sys.argv[1:]
os.chdir(directory)


def fill(name, step):
    """Writes until the disk is full; returns how much went in."""
    written = 0
    with open(name, "wb", 0) as file:
        try:
            while True:
                written += file.write(b"x" * step)
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
    return written


def full():
    for _ in range(2):
        written = fill("much", 65536)
        assert written > 500_000, written
        assert os.stat("much").st_size == written
        assert os.statvfs(".").f_bavail < 100
        os.unlink("much")
    # A hole that a program writes to by mapping it: there is room, or the write is refused; here there is.
    with open("hole", "wb+") as file:
        file.truncate(100_000)
        with mmap.mmap(file.fileno(), 100_000) as memory:
            memory[50_000:50_005] = b"found"
            memory.flush()
        assert os.pread(file.fileno(), 5, 50_000) == b"found"
        assert os.stat("hole").st_blocks < 100


def keep():
    with open("kept", "w") as file:
        file.write("kept by a Linux program\n")
    # Many names, listed while they go.
    os.mkdir("many")
    for number in range(300):
        open(f"many/name-{number}", "w").close()
    with os.scandir("many") as entries:
        for entry in entries:
            os.unlink(entry.path)
    assert os.listdir("many") == []
    os.rmdir("many")
    # Several threads, each in a file of its own and all in one.
    with open("shared", "wb") as file:
        file.truncate(40 * 1000)

    def work(number):
        mine = f"thread-{number}"
        with open(mine, "wb") as file:
            for step in range(50):
                file.write(bytes([number]) * 5000)
        descriptor = os.open("shared", os.O_RDWR)
        for step in range(10):
            os.pwrite(descriptor, bytes([number]) * 1000, (number * 10 + step) * 1000)
        os.close(descriptor)
        with open(mine, "rb") as file:
            assert file.read() == bytes([number]) * 250_000
        os.unlink(mine)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with open("shared", "rb") as file:
        assert file.read() == b"".join(bytes([number]) * 10_000 for number in range(4))
    # A file that lost its name is there as long as it is open.
    with open("gone", "wb+") as file:
        os.unlink("gone")
        file.write(b"still here")
        file.flush()
        with open("other", "wb") as other:
            other.write(b"another")
        assert os.pread(file.fileno(), 10, 0) == b"still here"
    with open("mapped", "wb+") as file:
        file.write(b"-" * 20_000)
        file.flush()
        memory = mmap.mmap(file.fileno(), 20_000)
        memory[10_000:10_006] = b"mapped"
        # Not flushed: unmounting has to do it.
    if directory != "/fat":
        os.symlink("kept", "link")
        os.link("kept", "second")
        os.unlink("link")


def found():
    with open("kept") as file:
        assert file.read() == "kept by a Linux program\n"
    assert os.stat("kept").st_nlink == 2 and os.stat("second").st_ino == os.stat("kept").st_ino
    with open("mapped", "rb") as file:
        data = file.read()
    assert len(data) == 20_000 and data[10_000:10_006] == b"mapped" and data[9_999:10_000] == b"-", data[9_990:10_010]
    lines = [line.split() for line in open("/proc/mounts")]
    assert ["/dev/vda", "/ffs", "ffs"] in [line[:3] for line in lines], lines
    assert "\tffs\n" in open("/proc/filesystems").read()


def wait_until(condition):
    """What a server has may be known from before for some seconds."""
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("nothing has changed")


def remote():
    """With the server's machine, which appends to "log", replaces "replaced", and then makes "answer"."""
    with open("log", "w") as file:
        file.write("guest\n")
    with open("replaced", "w") as file:
        file.write("guest\n")
    log = open("log")
    assert log.read() == "guest\n" and log.read() == ""
    kept = os.open("replaced", os.O_RDONLY)
    memory = mmap.mmap(os.open("log", os.O_RDONLY), 6, prot=mmap.PROT_READ)
    assert memory[:] == b"guest\n"
    # What is closed is on the server.
    with open("question", "w") as file:
        file.write("?" * 100_000)
    wait_until(lambda: os.path.exists("answer"))
    wait_until(lambda: os.fstat(log.fileno()).st_size == 13)
    assert log.read() == "server\n"
    wait_until(lambda: open("replaced").read() == "server\n")
    assert memory[:] == b"guest\n" and open("log").read() == "guest\nserver\n"
    os.close(kept)
    with open("log", "a") as file:
        file.write("guest again\n")
    with open("answer") as file:
        assert file.read() == "!"


{"full": full, "keep": keep, "found": found, "remote": remote}[what]()
print(f"{what}: passed")
