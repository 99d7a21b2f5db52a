"""A cluster of real servers, whose slots can be migrated step by step."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, Unpack

from redis import exceptions

from harness.servers import Server, ServerOptions, quoted
from harness.slots import SLOTS, Move, slot_of
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness.clients import Client
    from harness.flavours import Flavour

PATIENCE_SECONDS: Final = 60.0
_SLOTS_AT_ONCE: Final = 50


class Shard(NamedTuple):
    """A range of slots and its owner."""

    slots: range
    master: Server
    replicas: list[Server]


class Cluster:
    """A cluster with all slots, spread evenly over its masters.

    Every node may be killed, frozen and started again as any other server.

    Args:
        flavour: of all nodes.
        masters: how many. Each is to keep some slots.
        replicas: how many there are of each.
        spares: how many nodes have no slots at first, as those that join a cluster to let it grow.
        node_timeout: milliseconds of silence after which a node is held to be gone: short where a replica is to take
            its place; by default, a machine that stalls does not lose a node.
        options: how the nodes differ from plain servers.
    """

    def __init__(
        self,
        flavour: Flavour = "valkey",
        *,
        masters: int = 3,
        replicas: int = 0,
        spares: int = 0,
        node_timeout: int = 20_000,
        **options: Unpack[ServerOptions],
    ) -> None:
        self.flavour: Flavour = flavour
        self.nodes: list[Server] = []
        """First the masters, then a replica of the first, one of the second, and so on; the spares."""
        self._masters = masters
        self._replicas = replicas
        self._spares = spares
        self._node_timeout = node_timeout
        self._options = options
        self._ids: dict[Server, str] = {}
        self._clients: dict[Server, Client] = {}

    def __repr__(self) -> str:
        return f"<Cluster {self.flavour} {self.nodes!r}>"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def uri(self) -> str:
        """The URI of all nodes, without a login."""
        hosts = ",".join(f"{node.host}:{node.port}" for node in self.nodes)
        return f"redis+cluster://{hosts}"

    @property
    def password(self) -> str | None:
        """The password of the default user."""
        return self._options.get("password")

    def client(self, node: Server) -> Client:
        """A client of a node; the same one in each call."""
        if node not in self._clients:
            self._clients[node] = node.client()
        return self._clients[node]

    def id_of(self, node: Server) -> str:
        """The node id."""
        return self._ids[node]

    def masters(self) -> list[Server]:
        """The masters with slots, in the order of their slots."""
        return list(dict.fromkeys(shard.master for shard in self._shards()))

    def replicas(self, master: Server) -> list[Server]:
        """The replicas of a master."""
        return next(shard.replicas for shard in self._shards() if shard.master is master)

    def slots(self, master: Server) -> list[int]:
        """The slots of a master."""
        return [slot for shard in self._shards() if shard.master is master for slot in shard.slots]

    def node_of(self, key: str | bytes) -> Server:
        """The master of a key."""
        return self._owner(slot_of(key))

    def serves(self) -> bool:
        """Whether all running nodes report that the cluster is ok."""
        return all(b"cluster_state:ok" in self._ask(node, "INFO") for node in self._up())

    def start(self) -> None:
        """Start all nodes, make them known to each other, and return when all slots are served."""
        last_replica = self._masters * (1 + self._replicas)
        for _ in range(last_replica + self._spares):
            node = Server(self.flavour, **self._node_options())
            self.nodes.append(node)
            node.start()
            self._ids[node] = self._ask(node, "MYID").decode()
        self._give_slots()
        for one, other in itertools.combinations(self.nodes, 2):
            self._ask(one, "MEET", other.host, other.port, other.further_port("cluster-port"))
        wait_until(self._are_acquainted, PATIENCE_SECONDS)
        masters, replicas = self.nodes[: self._masters], self.nodes[self._masters : last_replica]
        for master, replica in zip(itertools.cycle(masters), replicas, strict=False):
            self._ask(replica, "REPLICATE", self._ids[master])
        self.settle()

    def close(self) -> None:
        """Kill all nodes and remove their directories."""
        for node in self.nodes:
            node.close()

    def settle(self) -> None:
        """Wait until all running nodes agree on the owners of slots and serve them."""
        try:
            wait_until(self._is_settled, PATIENCE_SECONDS)
        except AssertionError as error:
            for node in self._up():
                error.add_note(
                    f"{self._ask(node, 'NODES').decode()}{self._ask(node, 'INFO')[:200]!r}"
                )
            raise

    def wait_for_news(self) -> None:
        """Wait until all masters that are up know how new each one's claims to its slots are."""
        # A node makes its claims newer than all that it knows of. Where it does not know of the newest,
        # there are two of the same age, and others may go on to believe the wrong one.
        wait_until(self._know_all_ages, PATIENCE_SECONDS)

    def fail_over(self, replica: Server) -> None:
        """Fail over to a replica; the old master becomes its replica."""
        self._ask(replica, "FAILOVER")
        wait_until(lambda: replica in self.masters(), PATIENCE_SECONDS)
        self.settle()

    def new_master(self, key: str | bytes, old: Server) -> Server:
        """Wait until all nodes that are up know another master for this key: which it is."""
        wait_until(lambda: self._is_settled() and self.node_of(key) is not old, PATIENCE_SECONDS)
        return self.node_of(key)

    def move(self, slots: Sequence[int], target: Server) -> None:
        """Migrate slots of one node with all their keys, in batches."""
        for first in range(0, len(slots), _SLOTS_AT_ONCE):
            move = self.moving(target, *slots[first : first + _SLOTS_AT_ONCE])
            move.begin()
            move.take_keys()
            move.end()

    def moving(self, target: Server, *slots: int) -> Move:
        """A migration of slots of one node, to be done step by step."""
        return Move(self, slots, self._owner(slots[0]), target)

    def tell(self, node: Server, *commands: Sequence[object]) -> list[Any]:
        """What a node answers to commands that come together."""
        # It writes down what has changed before it answers, once for all of them.
        with self.client(node).pipeline(transaction=False) as pipeline:
            for words in commands:
                pipeline.execute_command(*words)
            replies: list[Any] = pipeline.execute()
            return replies

    def _node_options(self) -> ServerOptions:
        options = self._options.copy()
        config: dict[str, str | int] = {
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-node-timeout": self._node_timeout,
            "repl-diskless-sync-delay": 0,
            # A replica is spoken of when it has got something from its master, be it a ping.
            "repl-ping-replica-period": 1,
            # Who is whose replica changes by a failover and by nothing else.
            "cluster-allow-replica-migration": "no",
        }
        if "password" in options:
            config["masterauth"] = quoted(options["password"])
        if "certificates" in options:
            config |= {"tls-cluster": "yes", "tls-replication": "yes"}
        options["ports"] = ("cluster-port",)
        options["config"] = config | dict(options.get("config", {}))
        return options

    def _give_slots(self) -> None:
        for number, master in enumerate(self.nodes[: self._masters]):
            first = SLOTS * number // self._masters
            last = SLOTS * (number + 1) // self._masters - 1
            self._ask(master, "ADDSLOTSRANGE", first, last)
            # Or they would have to find out that they are of the same age.
            self._ask(master, "SET-CONFIG-EPOCH", number + 1)

    def _up(self) -> list[Server]:
        return [node for node in self.nodes if node.is_up]

    def _ask(self, node: Server, *words: object) -> Any:
        return self.client(node).execute_command("CLUSTER", *words)

    def _are_acquainted(self) -> bool:
        known = {identity.encode() for identity in self._ids.values()}
        return all(
            {line.split()[0] for line in self._ask(node, "NODES").splitlines()} == known
            for node in self.nodes
        )

    def _owner(self, slot: int) -> Server:
        return next(shard.master for shard in self._shards() if slot in shard.slots)

    def _shards(self, informant: Server | None = None) -> list[Shard]:
        """What this node says, or any that is up."""
        node = informant or self._up()[0]
        by_id = {identity.encode(): node for node, identity in self._ids.items()}
        return [
            Shard(range(first, last + 1), by_id[master[2]], [by_id[other[2]] for other in replicas])
            for first, last, master, *replicas in sorted(self._ask(node, "SLOTS"))
        ]

    def _is_settled(self) -> bool:
        up = self._up()
        try:
            views = [_view(self._shards(node)) for node in up]
            spares = self.nodes[len(self.nodes) - self._spares :]
            taking_part = {*spares, *(node for _, *nodes in views[0] for node in nodes)}
            return (
                all(view == views[0] for view in views)
                and taking_part.issuperset(up)
                and self.serves()
                and self._know_all_ages()
                and all(map(self._is_in_line, up))
            )
        except exceptions.RedisError:
            return False

    def _know_all_ages(self) -> bool:
        ages: list[set[tuple[bytes, ...]]] = []
        for node in self._up():
            lines = [line.split() for line in self._ask(node, "NODES").splitlines()]
            # Of those that have slots: whose claims they are, and how new.
            ages.append({(words[0], words[6]) for words in lines if words[8:]})
        return all(known == ages[0] for known in ages)

    def _is_in_line(self, node: Server) -> bool:
        """Whether it is a master, or has all that its master has."""
        role = self.client(node).execute_command("ROLE")
        return bool(role[0] == b"master" or role[3] == b"connected")


def _view(shards: Iterable[Shard]) -> list[tuple[object, ...]]:
    """Who has each slot, to compare: nodes name the same slots in other ranges and orders."""
    return [
        (slot, shard.master, *sorted(shard.replicas, key=id))
        for shard in shards
        for slot in shard.slots
    ]
