"""The servers of the harness."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from redis import exceptions

from harness import (
    Certificates,
    Client,
    Server,
    addresses,
    connect,
    needs_redis,
    servers,
    wait_until,
)

if TYPE_CHECKING:
    from harness import Flavour, StartServer


def test_the_flavour_is_what_it_says(server: Server, flavour: Flavour) -> None:
    """Each flavour runs the program it is named after."""
    assert flavour in server.log().lower()
    assert server.flavour == flavour


@pytest.mark.parametrize("turn", [1, 2])
def test_a_shared_server_is_handed_out_empty(raw: Client, turn: int) -> None:
    """No test finds the keys of another."""
    assert raw.dbsize() == 0
    raw.set("left over", turn)


def test_raw_client_returns_bytes(raw: Client) -> None:
    """What is stored is seen as it is."""
    raw.set("key", b"\xff")
    assert raw.get("key") == b"\xff"


def test_servers_do_not_share_a_port(private_server: StartServer) -> None:
    """Servers that run at the same time have ports of their own."""
    assert len({private_server().port for _ in range(3)}) == 3


def test_a_taken_port_is_given_up(
    server: Server, private_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When another has taken the free port in the meantime, the next one is tried."""
    ports = iter([server.port, addresses.free_port()])
    monkeypatch.setattr(servers, "free_port", lambda: next(ports))
    other = private_server()
    assert other.port != server.port
    assert other.client().ping()


def test_a_fixed_port_is_insisted_on(
    server: Server, private_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that was to listen on a given port never listens elsewhere."""
    monkeypatch.setattr(servers, "ATTEMPTS_TO_LISTEN", 2)
    with pytest.raises(RuntimeError, match="Address already in use"):
        private_server(port=server.port)


def test_a_server_that_cannot_start_says_why(private_server: StartServer) -> None:
    """The message holds what the server has logged."""
    with pytest.raises(RuntimeError, match="no-such-directive"):
        private_server(config={"no-such-directive": 1})


def test_further_directives_are_passed_on(private_server: StartServer) -> None:
    """A test may configure its server as it likes."""
    client = private_server(config={"maxmemory": "3mb"}).client()
    assert client.config_get("maxmemory") == {"maxmemory": "3145728"}


def test_a_frozen_server_does_not_answer(private_server: StartServer) -> None:
    """It accepts connections and stays silent until it is thawed."""
    server = private_server()
    with connect(server.url, socket_timeout=0.1) as client:
        server.freeze()
        with pytest.raises(exceptions.TimeoutError):
            client.ping()
        server.thaw()
        assert client.ping()


def test_a_frozen_server_can_be_ended(private_server: StartServer) -> None:
    """Neither a polite end nor a crash waits for the thaw, and a second frost changes nothing."""
    server = private_server()
    server.freeze()
    server.freeze()
    server.restart()
    server.freeze()
    server.kill()
    server.start()
    assert server.client().ping()


def test_a_killed_server_is_gone(private_server: StartServer) -> None:
    """Its process has ended and its port refuses connections."""
    server = private_server()
    pid = server.pid
    server.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.port))


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_a_restart_keeps_the_port(private_server: StartServer, ending: str) -> None:
    """Another process, without the old data, answers under the same URL."""
    server = private_server()
    before = server.url, server.pid
    with connect(server.url) as client:
        client.set("key", "value")
        getattr(server, ending)()
        server.start()
        assert (server.url, server.pid != before[1]) == (before[0], True)
        client.connection_pool.disconnect()
        assert client.get("key") is None


def test_a_restart_keeps_what_the_server_has_written(private_server: StartServer) -> None:
    """A server that changes its configuration finds the change again, as one out there does."""
    server = private_server(config={"maxmemory": "3mb"})
    client = server.client()
    client.config_set("maxmemory", "4mb")
    client.config_rewrite()
    server.restart()
    assert client.config_get("maxmemory") == {"maxmemory": "4194304"}


def test_further_ports_are_kept(private_server: StartServer) -> None:
    """A directive that names a port gets a free one, the same after a restart."""
    server = private_server(
        ports=("cluster-port",),
        config={"cluster-enabled": "yes", "cluster-config-file": "nodes.conf"},
    )
    port = server.further_port("cluster-port")
    assert port != server.port
    for _ in range(2):
        with socket.create_connection((server.host, port)):
            pass
        server.restart()
        assert server.further_port("cluster-port") == port


def test_running_servers_are_known(private_server: StartServer) -> None:
    """A server is up while it runs and is not frozen."""
    server = private_server()
    seen = [server.is_up]
    for change in (server.freeze, server.thaw, server.kill, server.start):
        change()
        seen.append(server.is_up)
    assert seen == [True, False, True, False, True]


def test_a_server_outlives_the_thread_that_started_it(private_server: StartServer) -> None:
    """A test may restart its server from a worker thread, so as not to block its loop."""
    server = private_server()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(server.restart).result()
    assert server.client().ping()


def test_a_server_without_a_port(private_server: StartServer) -> None:
    """Its URL leads to the unix socket."""
    server = private_server(tcp=False)
    assert server.url.startswith("unix://")
    with connect(server.url) as client:
        assert client.ping()


def test_passwords_survive_configuration_and_url(private_server: StartServer) -> None:
    """Any character may be in a password, and a wrong one is refused."""
    server = private_server(password="a b#c%d\"e'f@g/ü")
    for url in (server.url, server.unix_url):
        with connect(url) as client:
            assert client.ping()
    assert server.client().ping()
    with (
        connect(server.login_url("", "wrong")) as client,
        pytest.raises(exceptions.AuthenticationError),
    ):
        client.ping()


def test_users_have_their_rules(private_server: StartServer) -> None:
    """A user may do what the rules allow."""
    server = private_server(acl={"alice": "on >secret ~shop:* +get +ping"})
    with connect(server.login_url("alice", "secret")) as client:
        assert client.get("shop:1") is None
        with pytest.raises(exceptions.NoPermissionError):
            client.get("other")


@needs_redis
def test_tls(certificates: Certificates) -> None:
    """A client that trusts the authority can connect; another one cannot."""
    with Server("redis", certificates=certificates) as server:
        with connect(server.url, ssl_ca_certs=str(certificates.ca_file)) as client:
            assert client.ping()
        with (
            connect(server.url, ssl_ca_certs=str(certificates.stranger_ca_file)) as client,
            pytest.raises(exceptions.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"),
        ):
            client.ping()


@needs_redis
def test_tls_with_client_certificates(certificates: Certificates) -> None:
    """A server that asks for a certificate gets the one of the client."""
    with Server("redis", certificates=certificates, config={"tls-auth-clients": "yes"}) as server:
        with connect(
            server.url,
            ssl_ca_certs=str(certificates.ca_file),
            ssl_certfile=str(certificates.client_certificate_file),
            ssl_keyfile=str(certificates.client_key_file),
        ) as client:
            assert client.ping()
        with (
            connect(server.url, ssl_ca_certs=str(certificates.ca_file)) as client,
            pytest.raises(exceptions.ConnectionError),
        ):
            client.ping()


def test_nothing_is_left_of_a_closed_server(private_server: StartServer) -> None:
    """Process and directory are gone."""
    server = private_server()
    pid = server.pid
    server.close()
    assert not server.directory.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


PARENT = """
import os, signal, sys
from harness import Server
server = Server(sys.argv[1])
server.start()
print(server.port, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_servers_end_when_the_tests_are_killed(flavour: Flavour, tmp_path: Path) -> None:
    """No server is left behind, even when no fixture can be torn down."""
    parent = subprocess.run(
        [sys.executable, "-c", PARENT, flavour],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        check=False,
    )
    assert parent.returncode == -signal.SIGKILL
    address = ("127.0.0.1", int(parent.stdout))

    def refused() -> bool:
        with socket.socket() as client:
            return client.connect_ex(address) != 0

    wait_until(refused)
