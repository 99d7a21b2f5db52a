"""A master, its replicas and three sentinels, all of them real servers."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self, cast

from redis import exceptions

from harness.servers import Server, ServerOptions, quoted
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.clients import Client
    from harness.flavours import Flavour

MASTER_NAME = "main"
SENTINELS: Final = 3
QUORUM: Final = 2
PATIENCE_SECONDS: Final = 60.0
FAILOVER_SECONDS: Final = 15.0
"""Far more than a failover takes unless it comes to nothing."""
ATTEMPTS_TO_FAIL_OVER: Final = 3

# In milliseconds: sentinels are made for outages of minutes, and with their own rhythm they would
# hold a server that they have just met to be down before they had asked it anything. The last one
# lets them go on soon after the machine was too busy to let them run.
_RHYTHM: Final = {
    "ping-period": 200,
    "info-period": 200,
    "ask-period": 100,
    "tilt-period": 500,
}


class Sentinels:
    """A master and its replicas, with sentinels that decide which one is the master.

    Every server may be killed, frozen and started again as any other. A master that comes back is a
    master still, and takes writes that are lost when the sentinels make a replica of it. (A
    sentinel that is started again is as slow as the ones out there.)

    Args:
        flavour: of all servers.
        replicas: how many there are of the master.
        data: how master and replicas differ from plain servers. Where there is a password for
            them, replicas and sentinels know it.
        sentinels: how the sentinels do. They may speak TLS where the data does not, and the other
            way round.
        down_after: milliseconds of silence after which a master is held to be gone: short where another is to take
            its place; by default, a machine that stalls does not lose it.
        grace: milliseconds that a master who comes back is let be one: 8,000 out there. With much
            less than two seconds, the sentinels undo what they have just done themselves.
    """

    def __init__(
        self,
        flavour: Flavour = "valkey",
        *,
        replicas: int = 1,
        data: ServerOptions | None = None,
        sentinels: ServerOptions | None = None,
        down_after: int = 10_000,
        grace: int = 2000,
    ) -> None:
        self.flavour: Flavour = flavour
        self.nodes: list[Server] = []
        """Those with data; the first is the first master."""
        self.sentinels: list[Server] = []
        self._replicas = replicas
        self._data = data or {}
        self._watch = sentinels or {}
        self._down_after = down_after
        self._grace = grace
        self._clients: dict[Server, Client] = {}

    def __repr__(self) -> str:
        return f"<Sentinels {self.flavour} {self.sentinels!r} over {self.nodes!r}>"

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
    def addresses(self) -> list[tuple[str, int]]:
        """The URI of the sentinels."""
        return [(one.host, self._port_for_clients(one)) for one in self.sentinels]

    @property
    def uri(self) -> str:
        """The URI of database 0 of the master, without a login."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.addresses)
        return f"redis+sentinel://{hosts}/{MASTER_NAME}/0"

    def master(self) -> Server:
        """The master: all running sentinels agree on it, and it has that role."""
        found = self._agreed()
        if found is None:
            raise LookupError(f"there is no master now in {self!r}")
        return found

    def replicas(self) -> list[Server]:
        """The running replicas."""
        master = self.master()
        return [node for node in self.nodes if node is not master and node.is_up]

    def client(self, server: Server) -> Client:
        """A client of a server; the same one in each call."""
        if server not in self._clients:
            self._clients[server] = server.client()
        return self._clients[server]

    def start(self) -> None:
        """Start all, and return when the sentinels know each other, the master and its replicas."""
        for _ in range(1 + self._replicas):
            node = Server(self.flavour, **self._data_options())
            self.nodes.append(node)
            node.start()
        for _ in range(SENTINELS):
            sentinel = Server(self.flavour, **self._sentinel_options())
            self.sentinels.append(sentinel)
            sentinel.start()
            self._hasten(sentinel)
        self.settle()

    def close(self) -> None:
        """Kill everything and remove the directories."""
        # The sentinels first, or they would do something about it.
        for server in (*self.sentinels, *self.nodes):
            server.close()

    def kill_master(self) -> Server:
        """Kill the master; returns it."""
        master = self.master()
        master.kill()
        return master

    def freeze_master(self) -> Server:
        """Freeze the master; returns it."""
        master = self.master()
        master.freeze()
        return master

    def fail_over(self) -> Server:
        """Let the sentinels fail over from a healthy master; returns the new one."""
        master = self.master()
        sentinel = next(one for one in self.sentinels if one.is_up)
        for _ in range(ATTEMPTS_TO_FAIL_OVER):
            # The sentinels give it up when a server stalls for a second.
            if self.named_by(sentinel) is master:
                wait_until(self._ordered, PATIENCE_SECONDS)
            with suppress(AssertionError):
                return self.new_master(master, FAILOVER_SECONDS)
        return self.new_master(master)

    def order_failover(self, sentinel: Server) -> Server:
        """The same, as soon as this sentinel names the new one; others may not know yet."""
        master = self.master()
        wait_until(lambda: self._ordered(sentinel), PATIENCE_SECONDS)
        wait_until(lambda: self.named_by(sentinel) is not master, PATIENCE_SECONDS)
        return self.named_by(sentinel)

    def deafen(self, sentinel: Server) -> None:
        """Let a sentinel learn nothing from the others any more; it answers as before."""
        # They tell each other directly, and by way of the servers with the data.
        self.client(sentinel).execute_command("ACL", "SETUSER", "default", "-publish")
        for node in self.nodes:
            rules = ("reset", "on", "nopass", "~*", "&*", "+@all", "-subscribe")
            self.client(node).execute_command("ACL", "SETUSER", "deaf", *rules)
        login = ("auth-user", "deaf", "auth-pass", "any")
        self.client(sentinel).execute_command("SENTINEL", "SET", MASTER_NAME, *login)
        name = f"sentinel-{self._ask(sentinel, 'SENTINEL', 'MYID').decode()[:8]}-pubsub"
        for node in self.nodes:
            for client in self.client(node).client_list():
                if client["name"] == name:
                    self.client(node).client_kill_filter(client["id"])

    def named_by(self, sentinel: Server) -> Server:
        """The master according to this sentinel."""
        _, port = self._ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME)
        return next(node for node in self.nodes if node.port == int(port))

    def new_master(self, old: Server, seconds: float = PATIENCE_SECONDS) -> Server:
        """Wait until the sentinels agree on another master than this one: which it is."""
        found: Server | None = None

        def is_another() -> bool:
            nonlocal found
            found = self._agreed()
            return found is not None and found is not old

        wait_until(is_another, seconds)
        return cast("Server", found)

    def settle(self) -> None:
        """Wait until all that are up follow the same master, and all sentinels see that."""
        wait_until(self._is_settled, PATIENCE_SECONDS)

    def _hasten(self, sentinel: Server) -> None:
        # The grace is four of the periods in which they tell each other what they know.
        rhythm = _RHYTHM | {"publish-period": self._grace // 4}
        words = [str(word) for pair in rhythm.items() for word in pair]
        self.client(sentinel).execute_command("SENTINEL", "DEBUG", *words)

    def _data_options(self) -> ServerOptions:
        options = self._data.copy()
        config: dict[str, str | int] = {"repl-diskless-sync-delay": 0}
        if self.nodes:
            config["replicaof"] = f"{self.nodes[0].host} {self.nodes[0].port}"
        if "password" in options:
            config["masterauth"] = quoted(options["password"])
        if "certificates" in options:
            config["tls-replication"] = "yes"
        options["config"] = config | dict(options.get("config", {}))
        return options

    def _sentinel_options(self) -> ServerOptions:
        options = self._watch.copy()
        master = self.nodes[0]
        config: dict[str, str | int] = {
            "sentinel monitor": f"{MASTER_NAME} {master.host} {master.port} {QUORUM}",
            "sentinel down-after-milliseconds": f"{MASTER_NAME} {self._down_after}",
            # Twice this is the pause after a failover that came to nothing, as when no sentinel got
            # the votes of the others.
            "sentinel failover-timeout": f"{MASTER_NAME} 1000",
            "sentinel parallel-syncs": f"{MASTER_NAME} {self._replicas}",
        }
        if "password" in self._data:
            config["sentinel auth-pass"] = f"{MASTER_NAME} {quoted(self._data['password'])}"
        if "certificates" in self._data:
            # They reach each other as they reach the data.
            config["tls-replication"] = "yes"
        if self._has_two_ports():
            options["certificates"] = self._certificates()
            options["ports"] = ("port",)
        options["sentinel"] = True
        options["config"] = config | dict(options.get("config", {}))
        return options

    def _certificates(self) -> Any:
        return self._watch.get("certificates") or self._data.get("certificates")

    def _has_two_ports(self) -> bool:
        """Whether sentinels speak TLS with clients and not with each other, or the other way round."""
        return ("certificates" in self._watch) is not ("certificates" in self._data)

    def _port_for_clients(self, sentinel: Server) -> int:
        if "certificates" in self._data and "certificates" not in self._watch:
            return sentinel.further_port("port")
        return sentinel.port

    def _ask(self, server: Server, *words: str) -> Any:
        """What it answers; None where it does not, or not what was asked."""
        try:
            return self.client(server).execute_command(*words)
        except exceptions.RedisError:
            return None

    def _agreed(self) -> Server | None:
        said = {
            int(address[1])
            for sentinel in self.sentinels
            if sentinel.is_up
            and (address := self._ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME))
        }
        found = next((node for node in self.nodes if {node.port} == said and node.is_up), None)
        role = self._ask(found, "ROLE") if found is not None else None
        return found if role and role[0] == b"master" else None

    def _ordered(self, sentinel: Server | None = None) -> bool:
        """Whether a sentinel has taken the order; it does not while it knows no good replica."""
        sentinel = sentinel or next(one for one in self.sentinels if one.is_up)
        return bool(self._ask(sentinel, "SENTINEL", "FAILOVER", MASTER_NAME))

    def _is_settled(self) -> bool:
        master = self._agreed()
        return master is not None and all(
            self._sees_all(sentinel, master) for sentinel in self.sentinels if sentinel.is_up
        )

    def _sees_all(self, sentinel: Server, master: Server) -> bool:
        own = _fields(self._ask(sentinel, "SENTINEL", "MASTER", MASTER_NAME) or ())
        seen = self._ask(sentinel, "SENTINEL", "REPLICAS", MASTER_NAME) or ()
        replicas = {fields[b"port"]: fields for fields in map(_fields, seen)}
        return (
            own.get(b"flags") == b"master"
            and own.get(b"num-other-sentinels") == b"%d" % (SENTINELS - 1)
            and all(
                _is_in_line(replicas.get(b"%d" % node.port, {}), master)
                for node in self.nodes
                if node is not master and node.is_up
            )
        )


def _fields(flat: Any) -> Mapping[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _is_in_line(replica: Mapping[bytes, bytes], master: Server) -> bool:
    """Whether a sentinel knows this replica, and sees it follow that master."""
    return (
        replica.get(b"flags") == b"slave"
        and replica[b"master-link-status"] == b"ok"
        and replica[b"master-port"] == b"%d" % master.port
    )
