"""Log records name the cache; events without an end are logged once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import CacheConfigError, CacheError, RedisCache
from async_redis_cache._common.health_log import HealthLog, Record
from async_redis_cache._common.log_events import FAILED_OPEN, REFRESH_FAILED, SERVER
from harness.apis import Api, configured

if TYPE_CHECKING:
    from harness import Server
    from log_fixtures import LogRecorder

pytest_plugins = ["log_fixtures", "near_fixtures"]
pytestmark = pytest.mark.depends_on("api")

NOWHERE = "redis://127.0.0.1:1"


@pytest.mark.parametrize(
    ("database", "options", "name"),
    [
        (0, {"name": "products", "key_prefix": "shop:"}, "products"),
        (0, {"key_prefix": "shop:"}, "shop:"),
        (0, {}, "127.0.0.1:1"),
        (2, {"key_prefix": "shop:"}, "shop: in database 2"),
        (2, {}, "127.0.0.1:1 in database 2"),
    ],
)
async def test_record_names_cache(
    logged: LogRecorder, api: Api, database: int, options: dict[str, Any], name: str
) -> None:
    """A record has the cache's name: `options.name`, or else its prefix or server, and database."""
    url = f"{NOWHERE}/{database}"
    cache = configured(url, api, require_connection=False, command_timeout=50, **options)
    async with cache:
        with pytest.raises(CacheError):
            await cache.ping(None)
    (record,) = logged.records
    assert record.__dict__["cache_name"] == name
    assert record.getMessage().startswith(f"[{name}] no connection to ")


def test_repr_names_cache(api: Api) -> None:
    """The repr of a cache holds its name, open or not."""
    assert "'products'" in repr(configured(NOWHERE, api, name="products"))
    assert "'shop:'" in repr(configured(NOWHERE, api, key_prefix="shop:"))


def test_thread_names_cache(server: Server) -> None:
    """The thread of a `RedisCache` has the cache's name."""
    with RedisCache.from_url(server.url, name="products"):
        assert "RedisCache products" in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "n" * 65])
def test_name_raises_when_not_printable_or_long(api: Api, name: str) -> None:
    """A name that could forge log lines, or fill them, is BAD_OPTION."""
    with pytest.raises(CacheConfigError, match=r"options\.name must have") as caught:
        configured(NOWHERE, api, name=name)
    assert name not in str(caught.value)


def test_once_logs_each_subject_once() -> None:
    """The first time of each subject is logged with its code; the others are not."""
    records: list[Record] = []
    health_log = HealthLog("here", records.append, cache="products")
    health_log.begin()
    for code in ("OSError", "ValueError"):
        for function in ("shop.price", "shop.stock"):
            health_log.once(REFRESH_FAILED, function, code)
    assert [(one.subject, one.code, one.cache) for one in records] == [
        ("shop.price", "OSError", "products"),
        ("shop.stock", "OSError", "products"),
    ]
    assert records[0].message.startswith(
        "[products] background refresh with shop.price failed: OSError;"
    )


def test_once_is_bounded() -> None:
    """Of more than 100 subjects of one event, one record says that there are others."""
    records: list[Record] = []
    health_log = HealthLog("here", records.append)
    health_log.begin()
    for number in range(1000):
        health_log.once(REFRESH_FAILED, f"function{number}", "OSError")
    health_log.once(FAILED_OPEN)
    assert len(records) == 102
    assert [one.subject for one in records[99:101]] == [
        "function99",
        "others, which are not logged individually",
    ]


def test_once_logs_again_after_recovery() -> None:
    """Failing open is logged again in the next outage."""
    records: list[Record] = []
    health_log = HealthLog("here", records.append)
    health_log.begin()
    server = health_log.condition(SERVER)
    for _ in range(2):
        server.down("TIMEOUT")
        for _ in range(3):
            health_log.once(FAILED_OPEN, code="TIMEOUT")
        server.up()
    names = [record.event.name for record in records]
    assert names == ["server_down", "failed_open", "server_up"] * 2


def test_record_is_one_line() -> None:
    """What a server or a program calls itself cannot begin a line of its own in a log."""
    record = Record(SERVER.down, "host\nERROR forged", "TIMEOUT", cache="products")
    assert record.message.isprintable()
    assert r"host\nERROR forged" in record.message
