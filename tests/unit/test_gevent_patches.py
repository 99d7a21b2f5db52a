"""Programs in which gevent has patched modules: what cannot work is refused, and the error says what to do.

`tests/processes/test_gevent.py` runs such programs.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from types import SimpleNamespace

import pytest

from async_redis_cache import AsyncRedisCache, CacheUnsupported, RedisCache

CLOSED = "redis://127.0.0.1:1"


def patch(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Let gevent say that it has patched these modules, and nothing else."""
    fake = SimpleNamespace(is_module_patched=frozenset(modules).__contains__)
    monkeypatch.setitem(sys.modules, "gevent.monkey", fake)


async def refusal(cache: AsyncRedisCache | RedisCache) -> str:
    """The message with which `open` refuses."""
    with pytest.raises(CacheUnsupported) as caught:
        await (cache.open("trace 1") or asyncio.sleep(0))
    assert (caught.value.code, caught.value.trace_id) == ("UNSUPPORTED", "trace 1")
    return caught.value.message


@pytest.mark.parametrize(
    ("patched", "left_out"), [(["threading", "queue"], "select"), (["queue", "select"], "thread")]
)
async def test_open_refuses_partial_patches(
    monkeypatch: pytest.MonkeyPatch, patched: list[str], left_out: str
) -> None:
    """Greenlets would wait for a real lock or `select` forever: `open` names the argument of `patch_all` to leave out."""
    patch(monkeypatch, *patched)
    for cache in (AsyncRedisCache.from_url(CLOSED), RedisCache.from_url(CLOSED)):
        assert f"patch_all() without {left_out}=False" in await refusal(cache)


async def test_private_loop_is_refused_beside_a_running_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second event loop cannot run where all threads are one to asyncio."""
    patch(monkeypatch, "threading", "queue", "select")
    assert asyncio.get_running_loop().is_running()
    message = await refusal(RedisCache.from_url(CLOSED))
    assert "Open one RedisCache, outside of asyncio.run" in message


def test_late_patches_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thread-local state from before the patch would be shared by all greenlets."""
    patch(monkeypatch, "threading", "queue", "select")
    monkeypatch.setattr(threading, "local", type("local", (), {}))
    message = asyncio.run(refusal(RedisCache.from_url(CLOSED)))
    assert "before all other imports" in message
