"""A login that changes, at Sentinels, at the master that they name, and at every node of a cluster."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from harness import await_until
from harness.apis import APIS, Api, configured
from harness.clusters import Cluster
from harness.figures import report
from harness.near import trusted
from harness.rotation import FIRST, USER, Rotation, accepted, load_until
from harness.sentinels import Sentinels
from harness.token_stream import TokenStream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness import Client, Flavour, ServerOptions

OPTIONS: dict[str, Any] = {"max_size": 0, "near_cache.enabled": True, "near_cache.heartbeat": 100}
ACL = {USER: f"on >{FIRST} ~* &* +@all", "next": "on >s3cret ~* &* +@all"}


async def load_during_rotations(uri: str, api: Api, rotation: Rotation) -> None:
    """Load while the password rotates; then every connection has the last password."""
    rotated = rotation.rotations
    options: dict[str, Any] = OPTIONS | {"credential_provider": rotation, "key_prefix": f"{api}:"}
    async with configured(uri, api, **options) as cache:
        await trusted(cache)
        done = asyncio.Event()
        loading = asyncio.gather(*(load_until(done, cache) for _ in range(4)))
        await rotation.rotate_repeatedly(5, cache)
        done.set()
        loads = sum(await loading)
        await trusted(cache)
        await accepted(cache)
        keys = [f"key-{number}" for number in range(20)]
        await cache.store_many(None, dict.fromkeys(keys, 9))
        assert await cache.retrieve_many(None, keys) == dict.fromkeys(keys, 9)
        report(39, f"{api}: {loads} loads during {rotation.rotations - rotated} rotations")


async def test_loads_succeed_behind_sentinels_while_the_password_rotates(flavour: Flavour) -> None:
    """39. The passwords of the sentinels and of the master rotate under load: no load fails."""
    rotation = Rotation()
    acl: ServerOptions = {"acl": rotation.acl}
    with Sentinels(flavour, data=acl, sentinels=acl) as sentinels:
        servers = [*sentinels.nodes, *sentinels.sentinels]
        rotation.servers = [sentinels.client(server) for server in servers]
        for client in rotation.servers:
            client.execute_command("ACL", "SETUSER", "default", "resetpass", ">another")
        for api in APIS:
            await load_during_rotations(sentinels.uri, api, rotation)


async def test_connections_behind_sentinels_log_in_again(flavour: Flavour) -> None:
    """Those to the Sentinels and to the master, before a streamed token ends: no call fails."""
    options: ServerOptions = {"acl": ACL}
    with Sentinels(flavour, data=options, sentinels=options) as sentinels:
        for sentinel in sentinels.sentinels:
            command = ("ACL", "SETUSER", "default", "resetpass", ">another")
            sentinels.client(sentinel).execute_command(*command)
        servers = [*sentinels.nodes, *sentinels.sentinels]
        await stream_during_calls(sentinels.uri, [sentinels.client(one) for one in servers])


async def stream_during_calls(uri: str, servers: Sequence[Client]) -> None:
    """Call while a token is replaced; then the former one is revoked, and no connection had it."""

    def logged_in(user: str) -> int:
        clients = (client for server in servers for client in server.client_list())
        return sum(client["user"] == user for client in clients)

    provider = TokenStream(USER, FIRST)
    async with configured(uri, credential_provider=provider, **OPTIONS) as cache:
        await trusted(cache)
        keys = [f"key-{number}" for number in range(20)]
        done = asyncio.Event()

        async def call() -> None:
            while not done.is_set():
                await cache.store_many(None, dict.fromkeys(keys, 1))
                assert await cache.retrieve_many(None, keys) == dict.fromkeys(keys, 1)

        calling = asyncio.gather(*(call() for _ in range(4)))
        before = logged_in(USER)
        await provider.stream("next", "s3cret")
        await await_until(lambda: not logged_in(USER))
        # A connection in use is replaced, and calls may have opened further ones.
        await await_until(lambda: logged_in("next") >= before)
        done.set()
        await calling
        await trusted(cache)


async def test_sentinels_without_a_login_get_none(flavour: Flavour) -> None:
    """The provider is asked for the connection to the master only."""
    rotation = Rotation()
    with Sentinels(flavour, data={"acl": rotation.acl}) as sentinels:
        options: dict[str, Any] = {"credential_provider": rotation, "max_size": 0}
        async with configured(sentinels.uri, **options) as cache:
            await cache.store(None, "key", 1)
            assert rotation.calls == cache.stats().connects
            for sentinel in sentinels.sentinels:
                stats = sentinels.client(sentinel).info("commandstats")
                assert "cmdstat_auth" not in stats


async def test_loads_succeed_in_a_cluster_while_the_password_rotates(flavour: Flavour) -> None:
    """39. The password of each node of a cluster rotates at once under load: no load fails."""
    rotation = Rotation()
    with Cluster(flavour, acl=rotation.acl) as cluster:
        rotation.servers = [cluster.client(node) for node in cluster.nodes]
        for client in rotation.servers:
            client.execute_command("ACL", "SETUSER", "default", "resetpass", ">another")
        for api in APIS:
            await load_during_rotations(cluster.uri, api, rotation)


async def test_connections_to_a_cluster_log_in_again(flavour: Flavour) -> None:
    """Those to every node, before a streamed token ends: no call fails."""
    with Cluster(flavour, acl=ACL) as cluster:
        await stream_during_calls(cluster.uri, [cluster.client(node) for node in cluster.nodes])
