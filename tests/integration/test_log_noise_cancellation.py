"""Cancelled calls and close leave nothing that asyncio reports in its log."""

from __future__ import annotations

import asyncio
import gc

import pytest

from async_redis_cache import CacheStateError
from harness import Server, StartProxy, await_until
from harness.apis import configured
from harness.scripted_server import ScriptedServer

pytestmark = pytest.mark.depends_on()


async def test_reply_during_close_logs_nothing(
    server: Server, proxy: StartProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """A close that waits for a loader is met by the reply to another call: it goes nowhere."""
    network = proxy(server)
    loading = asyncio.Event()

    async def load() -> int:
        loading.set()
        try:
            await asyncio.Event().wait()
        finally:
            # It takes its time to end; meanwhile the reply is read.
            carried = network.bytes_to_client
            network.heal()
            await await_until(lambda: network.bytes_to_client > carried)
            await asyncio.sleep(0.01)
        return 1

    cache = configured(network.url)
    await cache.open(None)
    calls = [asyncio.create_task(cache.retrieve_or_load(None, "loaded", load))]
    await loading.wait()
    network.black_hole("to_client")
    calls.append(asyncio.create_task(cache.contains(None, "key")))
    await await_until(lambda: network.counts["MGET"] > 1)
    await cache.close(None)
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(end) for end in ends] == [CacheStateError] * 2
    assert caplog.messages == []


async def test_cancellation_during_the_lease_request_logs_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The request fails without a waiter, and its error is not logged."""
    async with (
        ScriptedServer(MGET=b"*1\r\n$-1\r\n", EVAL=b"") as server,
        configured(server.url, command_timeout=1_500, max_size=0) as cache,
    ):
        call = asyncio.create_task(cache.retrieve_or_load(None, "key", lambda: 1))
        await await_until(lambda: server.asked("EVAL"))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        del call
        await await_until(lambda: "0 waiting, 0 in flight" in repr(cache))
    gc.collect()
    assert caplog.messages == []
