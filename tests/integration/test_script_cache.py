"""Scripts are sent as EVALSHA once the server has executed them, and as EVAL where it cannot find them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from async_redis_cache import AsyncRedisCache, CacheServerError
from harness.apis import configured
from harness.scripted_server import ScriptedServer

if TYPE_CHECKING:
    from harness import Client, StartServer


def script_calls(raw: Client) -> dict[str, int]:
    """The number of calls of EVAL and of EVALSHA, rejected ones included."""
    stats = raw.info("commandstats")
    none = {"calls": 0, "rejected_calls": 0}
    figures = {name: stats.get(f"cmdstat_{name}", none) for name in ("eval", "evalsha")}
    return {name: row["calls"] + row["rejected_calls"] for name, row in figures.items()}


async def use(cache: AsyncRedisCache, name: str, turns: int = 10) -> None:
    """Store, load, touch and remove, one after the other, and check each result."""
    for turn in range(turns):
        assert await cache.store(None, f"{name}:{turn}", turn) == turn
        assert await cache.touch(None, f"{name}:{turn}", 60_000)
        assert (
            await cache.retrieve_or_load(None, f"{name}:load:{turn}", lambda: "loaded") == "loaded"
        )
        assert await cache.remove(None, f"{name}:{turn}") == turn
    assert await cache.remove_many(None, [f"{name}:load:{turn}" for turn in range(turns)]) == turns


@pytest.mark.depends_on("server")
async def test_script_is_sent_with_its_source_once(private_server: StartServer) -> None:
    """The first call of a script is EVAL, and all others are EVALSHA."""
    server = private_server()
    async with configured(server.url, max_size=1000) as cache:
        await use(cache, "first", turns=1)
        with server.client() as raw:
            raw.config_resetstat()
            await use(cache, "second")
            calls = script_calls(raw)
            assert calls["eval"] == 0
            assert calls["evalsha"] > 0


@pytest.mark.depends_on("server")
async def test_calls_succeed_while_scripts_are_flushed(private_server: StartServer) -> None:
    """After SCRIPT FLUSH, requests in flight are sent again as EVAL, which is no retry."""
    server = private_server()
    async with configured(server.url, max_size=1000) as cache:
        await use(cache, "first", turns=1)
        with server.client() as raw:
            raw.config_resetstat()

            async def flush() -> None:
                while True:
                    await asyncio.to_thread(raw.script_flush)

            # Once at least, however late the thread begins.
            raw.script_flush()
            flushing = asyncio.create_task(flush())
            await asyncio.gather(*(use(cache, f"caller {number}") for number in range(20)))
            flushing.cancel()
            await asyncio.gather(flushing, return_exceptions=True)
            assert min(script_calls(raw).values()) > 0
        stats = cache.stats()
    assert (stats.errors, stats.retries) == (0, 0)


@pytest.mark.depends_on("server")
async def test_user_without_evalsha_is_sent_sources(private_server: StartServer) -> None:
    """After NOPERM for EVALSHA, the request is sent again as EVAL, and so are all others."""
    server = private_server(acl={"ann": "on >secret ~* +@all -evalsha -script"})
    async with configured(server.login_url("ann", "secret"), max_size=1000) as cache:
        await use(cache, "first")
        with server.client() as raw:
            raw.config_resetstat()
            await use(cache, "second")
            assert script_calls(raw)["evalsha"] == 0
        stats = cache.stats()
    assert (stats.errors, stats.retries) == (0, 0)


@pytest.mark.parametrize(
    "refusal",
    [
        b"-ERR unknown command 'EVALSHA', with args beginning with: 'a' '1'\r\n",
        b"-ERR unknown command `EVALSHA`, with args beginning with: `a`, `1`\r\n",
        b"-ERR unsupported command\r\n",
        b"-NOPERM this user has no permissions to run the 'evalsha' command or its subcommand\r\n",
    ],
)
async def test_server_without_evalsha_gets_eval(refusal: bytes) -> None:
    """A server or proxy that lacks EVALSHA receives it once."""
    async with ScriptedServer(EVALSHA=refusal, EVAL=b":1\r\n") as server:
        async with configured(server.url, max_size=10) as cache:
            sent = server.asked("EVAL")
            for number in range(3):
                await cache.store(None, "key", number)
        assert server.asked("EVALSHA") == 1
        assert server.asked("EVAL") == sent + 3


async def test_noscript_in_reply_to_eval_is_an_error() -> None:
    """A request is sent again only once: a server that replies NOSCRIPT to EVAL too causes no loop."""
    lost = b"-NOSCRIPT No matching script. Please use EVAL.\r\n"
    async with (
        ScriptedServer(EVALSHA=lost) as server,
        configured(server.url, max_size=10) as cache,
    ):
        await cache.store(None, "key", 1)
        server.answers["EVAL"] = lost
        sent = server.asked("EVAL")
        with pytest.raises(CacheServerError) as caught:
            await cache.store(None, "key", 2)
        assert caught.value.code == "NOSCRIPT"
        assert (server.asked("EVALSHA"), server.asked("EVAL")) == (1, sent + 1)
