"""The clusters of the harness."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol

import pytest
from redis import exceptions

from harness import Certificates, connect, needs_redis, wait_until
from harness.clusters import Cluster
from harness.orphans import is_running, left_by
from harness.slots import SLOTS, key_in, slot_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness import Client, Flavour

pytestmark = pytest.mark.depends_on()


class StartCluster(Protocol):
    """Start a cluster; the test's end is its end."""

    def __call__(self, replicas: int = 0) -> Cluster: ...


@pytest.fixture
def private_cluster(flavour: Flavour) -> Iterator[StartCluster]:
    """Made by the test; ended even when it fails."""
    started: list[Cluster] = []

    def start(replicas: int = 0) -> Cluster:
        cluster = Cluster(flavour, replicas=replicas, node_timeout=1_000)
        started.append(cluster)
        cluster.start()
        return cluster

    yield start
    for cluster in started:
        cluster.close()


@pytest.fixture(scope="module")
def cluster(flavour: Flavour) -> Iterator[Cluster]:
    """One for the tests that leave, or bring back, the slots to where they were."""
    with Cluster(flavour) as shared:
        yield shared


def _error_of(client: Client, *words: object) -> exceptions.RedisError:
    with pytest.raises(exceptions.RedisError) as caught:
        client.execute_command(*words)
    return caught.value


@pytest.mark.depends_on("server")
def test_every_slot_has_a_master(cluster: Cluster) -> None:
    """All slots are there, each once, and no master has many more than another."""
    shares = [cluster.slots(master) for master in cluster.masters()]
    assert sorted(slot for share in shares for slot in share) == list(range(SLOTS))
    assert [len(share) for share in shares] == [5461, 5461, 5462]
    assert cluster.masters() == cluster.nodes
    assert cluster.serves()


@pytest.mark.parametrize("slot", [0, 5460, 5461, 12_182, SLOTS - 1])
def test_keys_of_a_slot(cluster: Cluster, slot: int) -> None:
    """There is a key for each slot; its node accepts it, and the others redirect."""
    key = key_in(slot, "name")
    owner = cluster.node_of(key)
    assert cluster.client(owner).execute_command("CLUSTER", "KEYSLOT", key) == slot_of(key) == slot
    assert cluster.client(owner).set(key, "value")
    for node in cluster.nodes:
        if node is not owner:
            error = _error_of(cluster.client(node), "GET", key)
            assert isinstance(error, exceptions.MovedError)
            assert (error.slot_id, error.port) == (slot, owner.port)


def test_the_uri_names_all_nodes(cluster: Cluster) -> None:
    """A client that is given it can do without any of them."""
    hosts = ",".join(f"127.0.0.1:{node.port}" for node in cluster.nodes)
    assert cluster.uri == f"redis+cluster://{hosts}"


def test_a_slot_moves_step_by_step(cluster: Cluster) -> None:
    """Between the steps, a test may look for as long as it likes at what the nodes say."""
    source, target, bystander = cluster.masters()
    stays, goes, absent = (key_in(7, name) for name in ("stays", "goes", "absent"))
    at_source, at_target = cluster.client(source), cluster.client(target)
    at_source.mset({stays: "1", goes: "2"})

    move = cluster.moving(target, 7)
    move.begin()
    assert at_source.get(goes) == b"2"
    move.take_keys(goes)

    assert at_source.get(stays) == b"1"
    for key in (goes, absent):
        error = _error_of(at_source, "GET", key)
        assert type(error) is exceptions.AskError
        assert error.port == target.port
        assert type(_error_of(at_target, "GET", key)) is exceptions.MovedError
    assert cluster.tell(target, ("ASKING",), ("GET", goes))[1] == b"2"
    assert isinstance(_error_of(at_source, "MGET", stays, goes), exceptions.TryAgainError)

    move.take_keys()
    assert type(_error_of(at_source, "GET", stays)) is exceptions.AskError
    move.end()
    cluster.settle()
    assert at_target.mget(stays, goes, absent) == [b"1", b"2", None]
    for node in (source, bystander):
        moved = _error_of(cluster.client(node), "GET", stays)
        assert type(moved) is exceptions.MovedError
        assert moved.port == target.port
    cluster.move([7], source)
    cluster.settle()


def test_many_slots_move_with_their_keys(cluster: Cluster) -> None:
    """Nothing is lost on the way there, nor on the way back."""
    source, target, _ = cluster.masters()
    keys = [key_in(slot, str(number)) for slot in range(300, 500, 10) for number in range(20)]
    for key in keys:
        cluster.client(source).set(key, key)
    counts = [("CLUSTER", "COUNTKEYSINSLOT", slot) for slot in range(300, 500)]
    for there, back in ((target, source), (source, target)):
        cluster.move(range(300, 500), there)
        cluster.settle()
        assert not any(cluster.tell(back, *counts))
        assert [cluster.client(there).get(key) for key in keys] == [key.encode() for key in keys]
        assert len(cluster.slots(source)) == (5261 if there is target else 5461)


def test_a_spare_node_can_take_slots(flavour: Flavour) -> None:
    """It has joined and has none, until some are moved to it."""
    with Cluster(flavour, spares=1) as cluster:
        *masters, spare = cluster.nodes
        assert cluster.masters() == masters
        cluster.client(masters[0]).set(key_in(7), "value")
        cluster.move([7], spare)
        cluster.settle()
        assert cluster.slots(spare) == [7]
        assert cluster.client(spare).get(key_in(7)) == b"value"


@pytest.mark.depends_on("server")
def test_a_killed_master_is_replaced_by_its_replica(private_cluster: StartCluster) -> None:
    """The replica takes over with all keys, and what was killed comes back as its replica."""
    cluster = private_cluster(replicas=1)
    old = cluster.node_of(key_in(0))
    (replica,) = cluster.replicas(old)
    cluster.client(old).set(key_in(0), "value")
    wait_until(lambda: cluster.client(replica).dbsize() == 1)
    old.kill()
    assert cluster.new_master(key_in(0), old) is replica
    assert cluster.client(replica).get(key_in(0)) == b"value"
    old.start()
    cluster.settle()
    assert cluster.replicas(replica) == [old]


def test_commanded_failover_replaces_the_master(private_cluster: StartCluster) -> None:
    """A planned failover: master and replica change places, and nothing is lost."""
    cluster = private_cluster(replicas=1)
    old = cluster.masters()[0]
    (replica,) = cluster.replicas(old)
    cluster.client(old).set(key_in(0), "value")
    cluster.fail_over(replica)
    assert cluster.node_of(key_in(0)) is replica
    assert cluster.replicas(replica) == [old]
    assert cluster.client(replica).get(key_in(0)) == b"value"


def test_without_one_of_its_masters_it_does_not_serve(private_cluster: StartCluster) -> None:
    """All is refused until the master, which has no replica, is back."""
    cluster = private_cluster()
    lost, kept, _ = cluster.masters()
    lost.kill()
    wait_until(lambda: b"cluster_state:fail" in cluster.tell(kept, ("CLUSTER", "INFO"))[0])
    assert not cluster.serves()
    error = _error_of(cluster.client(kept), "GET", key_in(6000))
    assert isinstance(error, exceptions.ClusterDownError)
    lost.start()
    cluster.settle()
    assert cluster.client(kept).get(key_in(6000)) is None


@needs_redis
def test_logins_and_tls(certificates: Certificates) -> None:
    """Nodes that speak only TLS and want a password find each other, and so do their keys."""
    with Cluster("redis", replicas=1, certificates=certificates, password="a b'c\"d") as cluster:
        source, target, _ = cluster.masters()
        with connect(source.url, ssl_ca_certs=str(certificates.ca_file)) as client:
            client.set(key_in(1), "value")
            cluster.move([1], target)
            error = _error_of(client, "GET", key_in(1))
            assert isinstance(error, exceptions.MovedError)
            assert error.port == target.port
        assert cluster.client(target).get(key_in(1)) == b"value"


def test_clusters_side_by_side(private_cluster: StartCluster) -> None:
    """Clusters of different tests do not see each other."""
    one, other = private_cluster(), private_cluster()
    nodes = [*one.nodes, *other.nodes]
    ports = [port for node in nodes for port in (node.port, node.further_port("cluster-port"))]
    assert len(set(ports)) == len(ports)
    assert set(one.masters()).isdisjoint(other.masters())


def test_nothing_is_left_when_it_is_closed(private_cluster: StartCluster) -> None:
    """Processes and directories are gone, also of those that were frozen or killed."""
    cluster = private_cluster()
    pids = [node.pid for node in cluster.nodes]
    cluster.nodes[0].freeze()
    cluster.nodes[1].kill()
    cluster.close()
    assert not any(node.directory.exists() for node in cluster.nodes)
    assert not any(map(is_running, pids))


PROGRAM = """
from harness.clusters import Cluster
cluster = Cluster("{flavour}")
cluster.start()
print(*(node.pid for node in cluster.nodes), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_servers_end_when_the_tests_are_killed(flavour: Flavour, tmp_path: Path) -> None:
    """No node is left behind, even when no fixture can be torn down."""
    pids = left_by(PROGRAM.format(flavour=flavour), tmp_path)
    assert len(pids) == 3
    wait_until(lambda: not any(map(is_running, pids)))
