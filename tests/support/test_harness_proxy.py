"""Each fault of the proxy is visible to a client."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest
import redis.asyncio
from redis import exceptions

from harness import Certificates, Client, Proxy, Server, await_until, connect, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Direction, Ending, StartProxy, StartServer

pytestmark = pytest.mark.depends_on()

PING = b"*1\r\n$4\r\nPING\r\n"
PONG = b"+PONG\r\n"


@pytest.fixture
def network(server: Server, proxy: StartProxy) -> Proxy:
    return proxy(server)


@pytest.fixture
def client(network: Proxy) -> Iterator[Client]:
    with connect(network.url, socket_timeout=2.0) as client:
        yield client


@pytest.fixture
def peer(network: Proxy) -> Iterator[socket.socket]:
    """A connection that shows every single byte."""
    with socket.create_connection((network.host, network.port), timeout=5) as peer:
        peer.sendall(PING)
        assert _read(peer, len(PONG)) == PONG
        yield peer


def _read(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := peer.recv(size - len(data))):
        data += more
    return data


def _wait_for_end(peer: socket.socket, ending: Ending) -> None:
    if ending == "fin":
        assert peer.recv(1) == b""
    else:
        with pytest.raises(ConnectionResetError):
            peer.recv(1)


def _seconds(client: Client) -> float:
    start = time.perf_counter()
    assert client.ping()
    return time.perf_counter() - start


def test_a_healthy_network_changes_nothing(client: Client, raw: Client) -> None:
    """Large values and small ones pass both ways."""
    for size in (0, 1, 3_000_000):
        client.set("key", b"x" * size)
        assert raw.get("key") == client.get("key") == b"x" * size


async def test_an_asynchronous_client_passes(network: Proxy) -> None:
    """The proxy's loop is its own, so a test's loop may be controlled and blocked at will."""
    async with redis.asyncio.Redis(host=network.host, port=network.port) as client:
        assert await client.set("key", "value")
        network.cut()
        assert await client.get("key") == b"value"
    await await_until(lambda: network.open_now == 0)


def test_a_server_on_a_unix_socket(private_server: StartServer, proxy: StartProxy) -> None:
    """The proxy also stands in front of a server without a port."""
    with connect(proxy(private_server(tcp=False)).url) as client:
        assert client.ping()


def test_logins_pass(private_server: StartServer, proxy: StartProxy) -> None:
    """The URL of the proxy logs in as that of the server does."""
    network = proxy(private_server(password="s/cret", acl={"al": "on >x +@all"}))
    for url in (network.url, network.login_url("al", "x", database=2)):
        with connect(url) as client:
            assert client.ping()


def test_the_proxy_speaks_tls(
    server: Server, proxy: StartProxy, certificates: Certificates
) -> None:
    """Every fault can be had on TLS, whatever server stands behind."""
    network = proxy(server, tls=certificates.server_context())
    with connect(network.url, ssl_ca_certs=str(certificates.ca_file)) as client:
        assert client.ping()
        for ending in ("fin", "rst"):
            network.swallow_replies(ending=ending)
            with pytest.raises(exceptions.ConnectionError):
                client.ping()
            assert client.ping()


def test_records(network: Proxy, client: Client) -> None:
    """Connections, bytes and commands are recorded."""
    client.set("key", "value")
    client.get("key")
    first = network.commands[-2]
    assert (first.name, first.arguments) == ("SET", (b"key", b"value"))
    assert (network.counts["GET"], network.opened, network.open_now) == (1, 1, 1)
    network.forget()
    client.ping()
    assert (network.bytes_to_server, network.bytes_to_client) == (len(PING), len(PONG))
    assert [command.name for command in network.commands] == ["PING"]
    client.close()
    wait_until(lambda: network.open_now == 0)
    assert network.opened == 1


@pytest.mark.parametrize("direction", [None, "to_server", "to_client"])
def test_a_delay_is_felt(network: Proxy, client: Client, direction: Direction | None) -> None:
    """Every round trip takes so much longer, and no longer once the network has healed."""
    client.ping()
    network.delay(0.2, direction=direction)
    assert _seconds(client) >= (0.4 if direction is None else 0.2)
    network.heal()
    assert min(_seconds(client) for _ in range(10)) < 0.2


def test_a_delay_is_no_bottleneck(network: Proxy, peer: socket.socket) -> None:
    """Later bytes are not held up by earlier ones."""
    network.delay(0.1, jitter=0.01)
    start = time.perf_counter()
    for _ in range(20):
        peer.sendall(PING)
    assert _read(peer, 20 * len(PONG)) == 20 * PONG
    assert 0.2 <= time.perf_counter() - start < 20 * 0.2


def test_pieces_arrive_one_by_one(network: Proxy, peer: socket.socket) -> None:
    """A chopped reply is read in more than one turn, and is whole in the end."""
    network.chop(1, pause=0.02, direction="to_client")
    peer.sendall(PING)
    pieces = [peer.recv(100)]
    while sum(map(len, pieces)) < len(PONG):
        pieces.append(peer.recv(100))
    assert b"".join(pieces) == PONG
    assert len(pieces) > 1


def test_a_client_puts_pieces_together(network: Proxy, client: Client) -> None:
    """Chopping both ways breaks nothing."""
    client.set("key", "value")
    network.chop(3)
    assert client.get("key") == b"value"


def test_a_black_hole_swallows_everything(network: Proxy, peer: socket.socket) -> None:
    """Connections are accepted and nothing comes back; what was sent is delivered in the end."""
    network.black_hole()
    peer.sendall(PING)
    with (
        connect(network.url, socket_timeout=0.1) as client,
        pytest.raises(exceptions.TimeoutError),
    ):
        client.ping()
    assert network.opened == 2
    wait_until(lambda: network.open_now == 1)
    network.heal()
    assert _read(peer, len(PONG)) == PONG


def test_a_half_open_link_carries_one_way(network: Proxy, raw: Client) -> None:
    """The server executes, and the client does not hear of it."""
    with connect(network.url, socket_timeout=0.2) as client:
        client.ping()
        network.black_hole("to_client")
        with pytest.raises(exceptions.TimeoutError):
            client.set("key", "value")
    assert raw.get("key") == b"value"


@pytest.mark.parametrize("ending", ["fin", "rst"])
def test_connections_are_cut(network: Proxy, peer: socket.socket, ending: Ending) -> None:
    """All connections end as requested, and new ones are accepted."""
    network.cut(ending)
    _wait_for_end(peer, ending)
    assert network.open_now == 0
    with connect(network.url) as client:
        assert client.ping()


def test_new_connections_are_refused(network: Proxy, peer: socket.socket) -> None:
    """The old ones go on, and the port is the same when all is well again."""
    port = network.port
    network.refuse()
    with connect(network.url) as client:
        with pytest.raises(exceptions.ConnectionError, match="refused"):
            client.ping()
        peer.sendall(PING)
        assert _read(peer, len(PONG)) == PONG
        network.heal()
        assert client.ping()
    assert network.port == port


@pytest.mark.parametrize("ending", ["fin", "rst"])
@pytest.mark.parametrize("size", range(len(PONG) + 1))
def test_a_reply_is_cut(network: Proxy, peer: socket.socket, size: int, ending: Ending) -> None:
    """Exactly so many bytes arrive, then the end, once."""
    network.cut_replies_after(size, ending)
    peer.sendall(PING)
    if ending == "fin":
        assert _read(peer, len(PONG)) == PONG[:size]
    else:
        assert _read(peer, size) == PONG[:size]
    _wait_for_end(peer, ending)
    with connect(network.url) as client:
        assert client.ping()


@pytest.mark.parametrize("ending", ["fin", "rst"])
def test_a_reply_is_lost(network: Proxy, client: Client, raw: Client, ending: Ending) -> None:
    """The server has executed, the client sees a cut, and the next call is answered."""
    network.swallow_replies(command="INCRBY", ending=ending)
    client.get("counter")
    with pytest.raises(exceptions.ConnectionError):
        client.incr("counter")
    assert raw.get("counter") == b"1"
    assert client.incr("counter") == 2


def test_several_replies_are_lost(network: Proxy, client: Client, raw: Client) -> None:
    """Greetings of new connections do not count."""
    network.swallow_replies(3)
    for _ in range(3):
        with pytest.raises(exceptions.ConnectionError):
            client.incr("counter")
    assert client.incr("counter") == 4


def test_a_lost_batch_was_executed_whole(network: Proxy, client: Client, raw: Client) -> None:
    """However large it is, nothing of it is cut off on the way to the server."""
    network.swallow_replies()
    batch = client.pipeline(transaction=True)
    for number in range(200):
        batch.set(f"key {number}", b"x" * 10_000)
    with pytest.raises(exceptions.ConnectionError):
        batch.execute()
    batch.reset()
    assert raw.dbsize() == 200


def test_a_reply_is_replaced(network: Proxy, client: Client) -> None:
    """Any trouble of a server can be played to the client, on a connection that stays."""
    client.ping()
    network.replace_replies(b"-OOM command not allowed when used memory > 'maxmemory'.\r\n")
    with pytest.raises(exceptions.OutOfMemoryError):
        client.set("key", "value")
    assert client.set("key", "value")
    assert network.opened == 1


def test_an_unread_reply_is_planted(network: Proxy, peer: socket.socket) -> None:
    """A client that does not check first takes it for the reply to its next command."""
    assert network.inject(b"+planted\r\n") == 1
    peer.sendall(PING)
    assert _read(peer, 17) == b"+planted\r\n" + PONG


def test_nothing_is_planted_amid_an_exchange(network: Proxy, peer: socket.socket) -> None:
    """A connection that waits for a reply is not idle."""
    network.forget()
    network.black_hole("to_client")
    peer.sendall(PING)
    wait_until(lambda: network.commands)
    assert network.inject(b"+planted\r\n") == 0


def test_the_end_of_a_server_is_passed_on(private_server: StartServer, proxy: StartProxy) -> None:
    """Its clients are cut off, new ones are reset, and after its return all is well."""
    server = private_server()
    network = proxy(server)
    with connect(network.url) as client:
        client.ping()
        server.kill()
        wait_until(lambda: network.open_now == 0)
        for _ in range(2):
            with pytest.raises(exceptions.ConnectionError):
                client.ping()
        server.start()
        assert client.ping()


def test_two_proxies_in_front_of_one_server(server: Server, proxy: StartProxy) -> None:
    """A fault of one network is not a fault of another."""
    bad, good = proxy(server), proxy(server)
    bad.refuse()
    with connect(good.url) as client:
        assert client.ping()
