"""Free ports, and URLs of servers."""

from __future__ import annotations

import socket
from pathlib import Path
from random import SystemRandom
from urllib.parse import quote

LOOPBACK = "127.0.0.1"
# Below the range from which the kernel serves outgoing connections: otherwise one of those could
# take the port of a server that is down, or even connect to itself there.
PORTS = range(20_000, 32_000)

_random = SystemRandom()  # Hypothesis seeds the global generator.


def free_port() -> int:
    """A port that was free a moment ago."""
    while True:
        port = _random.choice(PORTS)
        with socket.socket() as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind((LOOPBACK, port))
            except OSError:
                continue
            return port


def tcp_url(port: int, username: str, password: str, database: int, *, tls: bool) -> str:
    """A URL that any client understands, with the login percent-encoded."""
    scheme = "rediss" if tls else "redis"
    return f"{scheme}://{_login(username, password)}{LOOPBACK}:{port}/{database}"


def unix_url(socket_file: Path, username: str, password: str, database: int) -> str:
    """The URL of a unix socket."""
    return f"unix://{_login(username, password)}{socket_file}?db={database}"


def _login(username: str, password: str) -> str:
    return f"{quote(username, safe='')}:{quote(password, safe='')}@" if password else ""
