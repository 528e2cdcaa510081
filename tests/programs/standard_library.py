"""What servers and tools written in Python use: threads, processes, SQLite, TLS, asyncio. Prints the same everywhere."""
import asyncio, ctypes, hashlib, json, multiprocessing, os, queue, select, signal, socket, sqlite3, ssl, struct
import subprocess, sys, tempfile, threading, time, zlib

SHELL = sys.argv[1] if len(sys.argv) > 1 else "/bin/busybox"


def square(number):
    return number * number


def threads():
    work, results = queue.Queue(), []
    lock = threading.Lock()

    def worker():
        while (item := work.get()) is not None:
            with lock:
                results.append(item * 2)

    workers = [threading.Thread(target=worker) for _ in range(4)]
    for thread in workers:
        thread.start()
    for item in range(1000):
        work.put(item)
    for _ in workers:
        work.put(None)
    for thread in workers:
        thread.join()
    event = threading.Event()
    timer = threading.Timer(0.02, event.set)
    timer.start()
    print("threads", sum(results), event.wait(10))


def processes():
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        with context.Pool(2) as pool:
            print("pool", method, sum(pool.map(square, range(200))))
    parent, child = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=lambda: child.send({"from": "child"}))
    process.start()
    print("pipe", parent.recv(), process.join(), process.exitcode)
    shared = multiprocessing.Value("i", 0)

    def add():
        for _ in range(100):
            with shared.get_lock():
                shared.value += 1

    adders = [multiprocessing.get_context("fork").Process(target=add) for _ in range(3)]
    for adder in adders:
        adder.start()
    for adder in adders:
        adder.join()
    print("shared", shared.value)


def children():
    print("run", subprocess.run([SHELL, "echo", "hello"], capture_output=True, text=True).stdout.strip())
    shell = subprocess.run([SHELL, "sh", "-c", "cat; exit 3"], input=b"x" * 200000, capture_output=True)
    print("cat", len(shell.stdout), shell.returncode)
    sleeper = subprocess.Popen([SHELL, "sleep", "100"])
    try:
        sleeper.wait(0.05)
    except subprocess.TimeoutExpired:
        sleeper.terminate()
    print("terminated", sleeper.wait())
    try:
        subprocess.run(["/no/such/program"])
    except FileNotFoundError as error:
        print("missing", error.errno)


def database():
    with tempfile.TemporaryDirectory() as folder:
        connection = sqlite3.connect(os.path.join(folder, "data.db"))
        connection.execute("create table t (id integer primary key, name text)")
        with connection:
            connection.executemany("insert into t (name) values (?)", ((f"name {i}",) for i in range(2000)))
        connection.execute("pragma journal_mode=wal")
        print("sqlite", connection.execute("select count(*), max(name) from t").fetchone())
        connection.close()


def cryptography():
    context = ssl.create_default_context()
    print("tls", ssl.HAS_TLSv1_3, context.verify_mode.name, hashlib.sha256(b"data").hexdigest()[:16], len(os.urandom(32)))
    print("zlib", zlib.crc32(zlib.decompress(zlib.compress(b"abc" * 1000))))


async def run_asyncio():
    reader_end, writer_end = os.pipe()
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reader_end, "rb"))
    threading.Timer(0.01, lambda: (os.write(writer_end, b"through the pipe\n"), os.close(writer_end))).start()
    print("asyncio", (await reader.readline()).decode().strip())
    process = await asyncio.create_subprocess_exec(SHELL, "echo", "async child", stdout=asyncio.subprocess.PIPE)
    print("asyncio", (await process.stdout.read()).decode().strip(), await process.wait())
    started = time.monotonic()
    await asyncio.gather(*(asyncio.sleep(0.05) for _ in range(50)))
    print("asyncio slept", 0.05 <= time.monotonic() - started < 5)
    received = asyncio.get_running_loop().create_future()
    loop.add_signal_handler(signal.SIGUSR1, lambda: received.set_result("signal"))
    os.kill(os.getpid(), signal.SIGUSR1)
    print("asyncio", await received)

    async def serve(reader, writer):
        writer.write((await reader.readline()).upper())
        writer.close()

    path = os.path.join(tempfile.gettempdir(), "asyncio.socket")
    server = await asyncio.start_unix_server(serve, path)
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"over a socket\n")
    print("asyncio", (await reader.readline()).decode().strip())
    writer.close()
    server.close()
    os.unlink(path)


def polling():
    left, right = socket.socketpair()
    poller = select.epoll()
    poller.register(right, select.EPOLLIN | select.EPOLLET)
    left.send(b"ping")
    print("epoll", [event for _, event in poller.poll(5)], poller.poll(0))
    print("select", [len(ready) for ready in select.select([right], [left], [], 5)], right.recv(10))


if __name__ == "__main__":
    for step in (threads, processes, children, database, cryptography, polling):
        step()
    asyncio.run(run_asyncio())
    print("json", json.dumps({"struct": struct.pack("<I", 7).hex(), "ctypes": ctypes.sizeof(ctypes.c_long)}))
    sys.exit(9)
