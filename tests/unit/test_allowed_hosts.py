"""`options.allowed_hosts`: the hosts that redirections, slots and sentinels may send the login to."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from async_redis_cache import CacheConfigError, CacheUnavailable
from async_redis_cache._common.hosts import AllowedHosts
from harness import await_until
from harness.apis import APIS, Api, configured
from harness.resp import Command
from harness.scripted_server import ScriptedServer, ScriptedThread

ELSEWHERE = "127.0.0.2"
"""An address of this machine that the configuration does not name."""


def _bulk(*texts: str) -> bytes:
    return b"".join(b"$%d\r\n%s\r\n" % (len(text), text.encode()) for text in texts)


def _slots_at(host: str, port: int) -> bytes:
    return b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n" + _bulk(host) + b":%d\r\n" % port


def _cluster_url(server: ScriptedServer) -> str:
    return f"redis+cluster://user:secret@127.0.0.1:{server.port}"


LOGIN: dict[str, Any] = {"AUTH": b"+OK\r\n"}
OPTIONS: dict[str, Any] = {"max_size": 0, "retries": 1, "command_timeout": 2_000}


async def test_login_is_not_sent_when_moved_leads_to_another_host(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A MOVED to a host that is not allowed is a typed error, one log record, and no connection."""
    caplog.set_level(logging.WARNING, "async_redis_cache")
    async with ScriptedServer(**LOGIN) as server:
        server.answers["CLUSTER"] = _slots_at("127.0.0.1", server.port)
        server.answers["MGET"] = f"-MOVED 1 {ELSEWHERE}:{server.port}\r\n".encode()
        options = OPTIONS | {"allowed_hosts": "10.0.0.0/8 cache.example.com"}
        async with configured(_cluster_url(server), **options) as cache:
            connections = server.connections
            for _ in range(3):
                with pytest.raises(CacheUnavailable) as caught:
                    await cache.retrieve(None, "key")
                assert caught.value.code in {"HOST_NOT_ALLOWED", "BREAKER_OPEN"}
                assert ELSEWHERE in str(caught.value)
            assert server.connections <= connections + 1
    lost = [record for record in caplog.records if "HOST_NOT_ALLOWED" in record.getMessage()]
    assert len(lost) == 1
    assert f"{ELSEWHERE}:" in lost[0].getMessage()


@pytest.mark.parametrize("api", APIS)
async def test_login_is_not_sent_when_slots_name_another_host(api: Api) -> None:
    """CLUSTER SLOTS likewise, through both APIs."""
    with ScriptedThread(**LOGIN) as server:
        server.answers["CLUSTER"] = _slots_at(ELSEWHERE, server.port)
        options = OPTIONS | {"allowed_hosts": "cache.example.com"}
        async with configured(_cluster_url(server), api, **options) as cache:
            with pytest.raises(CacheUnavailable) as caught:
                await cache.retrieve(None, "key")
            assert caught.value.code == "HOST_NOT_ALLOWED"
    assert not server.asked("MGET")


async def test_login_is_sent_when_the_named_host_is_allowed() -> None:
    """A network that holds the address is enough."""
    async with ScriptedServer(**LOGIN) as server:
        server.answers["CLUSTER"] = _slots_at("127.0.0.1", server.port)
        asked: list[Command] = []

        def answer(command: Command) -> bytes:
            asked.append(command)
            return b"*1\r\n$1\r\n1\r\n"

        server.answers["MGET"] = answer
        url = f"redis+cluster://user:secret@localhost:{server.port}"
        async with configured(url, **OPTIONS, allowed_hosts="127.0.0.0/8") as cache:
            assert await cache.retrieve(None, "key") == 1
        assert asked


async def test_login_is_not_sent_when_a_sentinel_names_another_host() -> None:
    """What sentinels say leads the login too: refused when `open` learns of it."""
    async with ScriptedServer() as sentinel, ScriptedServer(**LOGIN) as master:

        def answer(command: Command) -> bytes:
            if command.arguments[0] == b"MASTER":
                return b"%1\r\n" + _bulk("config-epoch", "1")
            return b"*2\r\n" + _bulk(ELSEWHERE, str(master.port))

        sentinel.answers["HELLO"] = b"%1\r\n" + _bulk("role", "sentinel")
        sentinel.answers["SENTINEL"] = answer
        url = f"redis+sentinel://user:secret@127.0.0.1:{sentinel.port}/main"
        cache = configured(url, **OPTIONS, allowed_hosts="10.0.0.0/8")
        with pytest.raises(CacheUnavailable) as caught:
            await cache.open(None)
        assert caught.value.code == "HOST_NOT_ALLOWED"
        await await_until(lambda: sentinel.open_now == 0)
        assert master.connections == 0


ALLOWED = "cache.example.com, *.redis.example.com 10.0.0.0/8\t192.168.1.7,fd00::/8"


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("cache.example.com", True),
        ("CACHE.example.com.", True),
        ("evil-cache.example.com", False),
        ("cache.example.com.evil.org", False),
        ("a.redis.example.com", True),
        ("redis.example.com", False),
        ("evilredis.example.com", False),
        ("10.255.0.1", True),
        ("::ffff:10.0.0.1", True),
        ("192.168.1.7", True),
        ("192.168.1.8", False),
        ("169.254.169.254", False),
        ("fd00::1", True),
        ("fe80::1%eth0", False),
        ("0x0a000001", False),
        ("10.1", False),
        ("167772161", False),
        ("evil.org%.redis.example.com", False),
        ("127.0.0.1:1.redis.example.com", False),
        (".redis.example.com", False),
        ("", False),
    ],
)
def test_host_is_allowed_by_the_option(host: str, is_allowed: bool) -> None:
    """Names by name, domains by their end, addresses by network; nothing is resolved."""
    assert AllowedHosts(ALLOWED).admit(host) is is_allowed


@pytest.mark.parametrize(
    "text", ["10.0.0.0/99", "a b/c", "http://host", "host:6379", "*", "**.a", "a..b"]
)
def test_option_is_refused_when_it_names_no_host(text: str) -> None:
    """BAD_OPTION, when the cache is configured."""
    with pytest.raises(CacheConfigError) as caught:
        configured("redis://127.0.0.1", allowed_hosts=text)
    assert caught.value.code == "BAD_OPTION"
    assert "allowed_hosts" in str(caught.value)
