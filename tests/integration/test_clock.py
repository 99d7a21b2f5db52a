"""The server counts expiry: the wall clock of a client does not matter."""

from __future__ import annotations

import datetime as dt
import time
from typing import TYPE_CHECKING, Any

import pytest

from harness.apis import configured, until_gone
from harness.figures import report

if TYPE_CHECKING:
    from harness import Client, Server

HOUR = 3600.0


class Shifted(dt.datetime):
    """A calendar that goes wrong together with the clock."""

    shift = 0.0

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> Any:
        """The wrong moment."""
        return super().now(tz) + dt.timedelta(seconds=cls.shift)


@pytest.mark.parametrize("bound", [0, 10], ids=["unbounded", "bounded"])
@pytest.mark.parametrize("shift", [-HOUR, HOUR], ids=["behind", "ahead"])
async def test_a_wrong_wall_clock(
    server: Server, raw: Client, monkeypatch: pytest.MonkeyPatch, bound: int, shift: float
) -> None:
    """29. A wall clock that is wrong by an hour makes nothing expire early or late."""
    right_time = time.time
    options = {"key_prefix": "p:", "max_size": bound}
    async with configured(server.url, **options) as right:
        await right.store(None, "before", 1, 30_000)
        monkeypatch.setattr(time, "time", lambda: right_time() + shift)
        monkeypatch.setattr(time, "time_ns", lambda: int((right_time() + shift) * 1e9))
        monkeypatch.setattr(Shifted, "shift", shift)
        monkeypatch.setattr(dt, "datetime", Shifted)
        async with configured(server.url, **options) as wrong:
            assert await wrong.retrieve(None, "before") == 1
            await wrong.store_many(None, {"long": 1, "touched": 2}, 60_000)
            await wrong.touch(None, "touched", 20_000)
            for key, life in (("before", 30_000), ("long", 60_000), ("touched", 20_000)):
                for cache in (right, wrong):
                    left = await cache.time_to_live(None, key)
                    assert left is not None
                    assert life - 15_000 < left <= life
            begun = 0.0
            found: dict[str, Any] = {}
            while not found:  # Where the machine stalls for longer than they live, once more.
                begun = time.monotonic()
                await wrong.store(None, "brief", 1, 150)
                await right.store(None, "also brief", 1, 150)
                found = await right.retrieve_many(None, ["brief", "also brief"])
            await until_gone(wrong, "brief", "also brief")
            lasted = time.monotonic() - begun
            assert lasted >= 0.15
            late = abs(lasted - 0.150)
            report(29, f"a value of 150 ms was gone after {lasted * 1000:.0f} ms", late)
            assert await right.retrieve_many(None, ["before", "long", "touched"]) == {
                "before": 1,
                "long": 1,
                "touched": 2,
            }
            if bound:
                # The index goes by the server's clock too: the soonest to expire leaves first.
                many = {f"key{number}": number for number in range(bound - 2)}
                await wrong.store_many(None, many, 40_000)
                assert raw.exists("p:touched", "p:before", "p:long") == 2
                assert raw.exists("p:touched") == 0
