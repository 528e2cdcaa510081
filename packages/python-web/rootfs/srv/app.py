"""A small HTTP/1.1 server on asyncio's streams: many connections, one thread, no packages but Python's own."""

import asyncio
import json
import os
import platform
import signal
import time

PORT = int(os.environ.get("PORT", "8000"))
BODY_LIMIT = 16 << 20
IDLE_SECONDS = 30
STARTED = time.monotonic()


def page() -> bytes:
    return f"<!doctype html><title>Python</title><h1>Hello from Python {platform.python_version()}</h1>\n".encode()


def health() -> bytes:
    uptime = round(time.monotonic() - STARTED, 3)
    return json.dumps({"status": "ok", "uptime": uptime, "tasks": len(asyncio.all_tasks())}).encode()


async def read_request(reader):
    """The method, path, headers and body of the next request; None at the end of the connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    method, path, _version = lines[0].split(" ", 2)
    headers = {}
    for line in lines[1:]:
        name, separator, value = line.partition(":")
        if separator:
            headers[name.strip().lower()] = value.strip()
    length = int(headers.get("content-length", "0"))
    if not 0 <= length <= BODY_LIMIT:
        raise ValueError("body too large")
    return method, path, headers, await reader.readexactly(length)


def respond(method: str, path: str, body: bytes):
    if path == "/" and method in ("GET", "HEAD"):
        return "200 OK", "text/html; charset=utf-8", page()
    if path == "/health" and method in ("GET", "HEAD"):
        return "200 OK", "application/json", health()
    if path == "/echo" and method == "POST":
        return "200 OK", "application/octet-stream", body
    return "404 Not Found", "text/plain; charset=utf-8", b"there is nothing here\n"


async def serve(reader, writer):
    try:
        while True:
            async with asyncio.timeout(IDLE_SECONDS):
                method, path, headers, body = await read_request(reader)
            status, kind, answer = respond(method, path, body)
            close = headers.get("connection", "").lower() == "close"
            head = (
                f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(answer)}\r\n"
                f"connection: {'close' if close else 'keep-alive'}\r\n\r\n"
            )
            writer.write(head.encode() + (b"" if method == "HEAD" else answer))
            await writer.drain()
            if close:
                break
    except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
        pass
    except (asyncio.LimitOverrunError, ValueError):
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    finally:
        writer.close()


async def main():
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await asyncio.start_server(serve, "0.0.0.0", PORT, backlog=512)
    print(f"python-web: listening on port {PORT}")
    async with server:
        await stop.wait()
    print("python-web: stopped")


asyncio.run(main())
