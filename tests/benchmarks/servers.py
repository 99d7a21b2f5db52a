"""The private server of a run, started and ended with it."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from harness import Flavour, Server, connect


@dataclass(frozen=True, slots=True)
class Target:
    """Where the peers connect to, by TCP on the loopback, and what answers there."""

    url: str
    host: str
    port: int
    software: str

    def flush(self) -> None:
        """Forget every key, so that no measurement inherits the keys of the one before."""
        with connect(self.url) as client:
            client.flushdb()


@contextmanager
def private_server(flavour: Flavour) -> Generator[Target]:
    """Start a server without persistence on a free port."""
    with Server(flavour) as server:
        about: dict[str, Any] = server.client().info("server")
        software = about.get("server_name", "redis")
        version = about.get(f"{software}_version", about["redis_version"])
        yield Target(server.url, server.host, server.port, f"{software} {version}")
