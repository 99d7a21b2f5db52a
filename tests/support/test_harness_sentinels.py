"""The sentinels of the harness."""

from __future__ import annotations

import sys
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Protocol

import pytest
from redis import exceptions

from harness import Certificates, ServerOptions, connect, needs_redis, wait_until
from harness.orphans import is_running, left_by
from harness.sentinels import MASTER_NAME, Sentinels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness import Client, Flavour, Server

pytestmark = pytest.mark.depends_on()


class StartSentinels(Protocol):
    """Start a master, its replicas and their sentinels; the test's end is their end."""

    def __call__(self, replicas: int = 1, down_after: int = 500) -> Sentinels: ...


@pytest.fixture
def sentinels(flavour: Flavour) -> Iterator[StartSentinels]:
    """Made by the test; ended even when it fails."""
    started: list[Sentinels] = []

    def start(replicas: int = 1, down_after: int = 500) -> Sentinels:
        made = Sentinels(flavour, replicas=replicas, down_after=down_after)
        started.append(made)
        made.start()
        return made

    yield start
    for one in started:
        one.close()


def test_roles_are_as_configured(sentinels: StartSentinels) -> None:
    """The first node is the master, the others follow it, and the URI names all sentinels."""
    watched = sentinels(replicas=2)
    master, *replicas = watched.nodes
    assert watched.master() is master
    assert watched.replicas() == replicas
    watched.client(master).set("key", "value")
    for replica in map(watched.client, replicas):
        wait_until(partial(_holds, replica))
        with pytest.raises(exceptions.ReadOnlyError):
            replica.set("key", "other")
    for host, port in watched.addresses:
        with connect(f"redis://{host}:{port}") as sentinel:
            address = sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME)
            assert address == [master.host.encode(), str(master.port).encode()]
    hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in watched.sentinels)
    assert watched.uri == f"redis+sentinel://{hosts}/{MASTER_NAME}/0"


@pytest.mark.depends_on("server")
def test_a_killed_master_is_replaced(sentinels: StartSentinels) -> None:
    """There is none until another takes its place; back again, it takes writes that are lost."""
    watched = sentinels()
    old = watched.kill_master()
    with pytest.raises(LookupError):
        watched.master()
    assert watched.new_master(old) is watched.nodes[1]
    old.start()
    assert watched.client(old).set("key", "to be lost")
    watched.settle()
    assert watched.master() is watched.nodes[1]
    assert watched.replicas() == [old]
    assert watched.client(old).get("key") is None


def test_a_frozen_master_is_replaced(sentinels: StartSentinels) -> None:
    """Its connections live on, and it still believes to be the master when it is thawed."""
    watched = sentinels()
    with connect(watched.master().url) as client:
        client.set("key", "value")
        old = watched.freeze_master()
        watched.new_master(old)
        old.thaw()
        assert client.execute_command("ROLE")[0] == b"master"
        watched.settle()
        assert watched.replicas() == [old]


def test_commanded_failover_replaces_the_master(sentinels: StartSentinels) -> None:
    """A planned failover: the old master is well, and becomes a replica of the new one."""
    watched = sentinels(replicas=2)
    old = watched.master()
    new = watched.fail_over()
    assert new is not old
    watched.settle()
    assert watched.master() is new
    assert set(watched.replicas()) == {*watched.nodes} - {new}


def test_two_sentinels_are_enough(sentinels: StartSentinels) -> None:
    """With one sentinel down the others decide without it."""
    watched = sentinels()
    watched.sentinels[0].kill()
    old = watched.kill_master()
    assert watched.new_master(old) is watched.nodes[1]


@needs_redis
@pytest.mark.parametrize("which", ["data", "sentinels", "both"])
def test_logins_and_tls(which: str, certificates: Certificates) -> None:
    """Data and sentinels have their own passwords, users and encryption, and work together."""
    names = {"data", "sentinels"} if which == "both" else {which}
    login: ServerOptions = {"certificates": certificates, "password": "a b'c\"d"}
    data: ServerOptions = {**login, "acl": {"alice": "on >one ~* +@all"}}
    guards: ServerOptions = {**login, "acl": {"bob": "on >two &* +@all"}}
    with Sentinels(
        "redis",
        data=data if "data" in names else None,
        sentinels=guards if "sentinels" in names else None,
        down_after=500,
    ) as watched:
        old = watched.kill_master()
        new = watched.new_master(old)
        ca = {"ssl_ca_certs": str(certificates.ca_file)}
        url = new.login_url("alice", "one") if "data" in names else new.url
        with connect(url, **ca if "data" in names else {}) as client:
            assert client.set("key", "value")
        for host, port in watched.addresses:
            scheme = "rediss://bob:two@" if "sentinels" in names else "redis://"
            options = ca if "sentinels" in names else {}
            with connect(f"{scheme}{host}:{port}", **options) as sentinel:
                found = sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME)
                assert int(found[1]) == new.port


def test_some_side_by_side(sentinels: StartSentinels) -> None:
    """Sentinels of different tests do not see each other."""
    one, other = sentinels(), sentinels(down_after=60_000)
    ports = [server.port for each in (one, other) for server in _all(each)]
    assert len(set(ports)) == len(ports)
    one.new_master(one.kill_master())
    assert other.master() is other.nodes[0]


def test_nothing_is_left_when_it_is_closed(sentinels: StartSentinels) -> None:
    """Processes and directories are gone, also of those that were frozen or killed."""
    watched = sentinels()
    pids = [server.pid for server in _all(watched)]
    watched.nodes[1].freeze()
    watched.sentinels[0].freeze()
    watched.kill_master()
    watched.close()
    assert not any(server.directory.exists() for server in _all(watched))
    assert not any(map(is_running, pids))


PROGRAM = """
from harness.sentinels import Sentinels
watched = Sentinels("{flavour}")
watched.start()
print(*(server.pid for server in (*watched.nodes, *watched.sentinels)), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_servers_end_when_the_tests_are_killed(flavour: Flavour, tmp_path: Path) -> None:
    """No server is left behind, even when no fixture can be torn down."""
    pids = left_by(PROGRAM.format(flavour=flavour), tmp_path)
    assert len(pids) == 5
    wait_until(lambda: not any(map(is_running, pids)))


def _holds(client: Client) -> bool:
    return client.get("key") == b"value"


def _all(watched: Sentinels) -> Iterator[Server]:
    return chain(watched.nodes, watched.sentinels)
