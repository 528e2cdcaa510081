"""Opens sockets of many kinds, and has ss list them with their owners."""
import socket, subprocess, sys

local = socket.socket(socket.AF_UNIX)
local.bind("/tmp/listed")
local.listen(7)
local_client = socket.socket(socket.AF_UNIX)
local_client.connect("/tmp/listed")
local_server, _ = local.accept()
named = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
named.bind("\0listed")
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("127.0.0.1", 5353))
listener = socket.create_server(("127.0.0.1", 8080), backlog=9)
client = socket.create_connection(("127.0.0.1", 8080))
server, _ = listener.accept()
sys.exit(subprocess.run(["/bin/ss", "-tulpanx"]).returncode)
