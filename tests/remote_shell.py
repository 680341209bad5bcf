"""A remote shell over TCP, as bare as can be: what ssh is to training on several machines, without keys or users.

python remote_shell.py serve HOST PORT             runs what it is asked to, a connection each
python remote_shell.py HOST PORT command ...       like `ssh HOST command ...`
"""

import json
import os
import socket
import subprocess
import sys
import threading


def serve(host: str, port: int) -> None:
    """Run each connection's command with the connection as its stdin and stdout."""
    with socket.create_server((host, port)) as server:
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            with connection:
                asked = b""
                while not asked.endswith(b"\n"):
                    asked += connection.recv(1)
                subprocess.Popen(json.loads(asked), stdin=connection, stdout=connection)


def ask(host: str, port: int, command: list[str]) -> None:
    """Run a command there; our stdin is its, its stdout ours."""
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.settimeout(None)
        connection.sendall(json.dumps(command).encode() + b"\n")

        def feed() -> None:
            while chunk := os.read(0, 65536):
                connection.sendall(chunk)
            connection.shutdown(socket.SHUT_WR)

        threading.Thread(target=feed, daemon=True).start()
        while chunk := connection.recv(65536):
            os.write(1, chunk)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]))
    ask(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
