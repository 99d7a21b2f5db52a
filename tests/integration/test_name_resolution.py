"""Host names are resolved off the loop, within the deadline of the call."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from async_redis_cache import AsyncRedisCache, CacheTimeout, CacheUnavailable, RedisCache
from async_redis_cache._connection.sockets import _interleaved, _start_look_up
from harness import Server, await_until
from harness.apis import APIS, Api, configured
from harness.choices import by_host_and_port
from harness.figures import in_time
from harness.programs import StartProgram

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["program_fixtures"]

pytestmark = [pytest.mark.depends_on("api", "loop"), by_host_and_port]

NAME = "cache.test"
LIMIT = 200
"""Milliseconds."""
ENDING_SECONDS = 1.0
NOBODY = "127.0.0.2"
"""An address of this machine where no server of the tests listens."""


class Names(NamedTuple):
    """What answers for names, as far as the test wants it to."""

    addresses: list[str]
    """What the name means."""
    answers: threading.Event
    asked: list[str]
    """The names that were looked up, in the order of the questions."""


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = Names(["127.0.0.1"], threading.Event(), [])
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != NAME:
            return real(host, port, *args, **kwargs)
        names.asked.append(host)
        names.answers.wait()
        if not names.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [found for address in names.addresses for found in real(address, port, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    yield names
    names.answers.set()


def url_of(server: Server) -> str:
    return f"redis://{NAME}:{server.port}"


async def test_concurrent_connections_share_one_lookup(server: Server, names: Names) -> None:
    """One lookup serves all waiting connections; a cancelled one does not end it for the others."""
    impatient = AsyncRedisCache.from_url(url_of(server), connect_timeout=LIMIT)
    patient = AsyncRedisCache.from_url(url_of(server), connect_timeout=60_000)
    opening = asyncio.create_task(patient.open(None))
    for _ in range(2):
        with pytest.raises(CacheTimeout):
            await impatient.open(None)
    names.answers.set()
    await opening
    assert names.asked == [NAME]
    assert await patient.store(None, "key", 1) == 1
    await patient.close(None)


async def test_a_name_is_looked_up_for_each_connection(server: Server, names: Names) -> None:
    """Nothing is remembered once it is answered, be it an error."""
    names.answers.set()
    names.addresses.clear()
    cache = AsyncRedisCache.from_url(url_of(server))
    with pytest.raises(CacheUnavailable, match="name not known"):
        await cache.open(None)
    names.addresses.append("127.0.0.1")
    async with cache:
        assert await cache.store(None, "key", 1) == 1
    assert len(names.asked) == 2


async def test_addresses_are_tried_in_their_order(server: Server, names: Names) -> None:
    """The first that takes us is taken; where none does, that is what is said."""
    names.answers.set()
    names.addresses[:] = [NOBODY, "127.0.0.1", NOBODY]
    async with AsyncRedisCache.from_url(url_of(server)) as cache:
        assert await cache.store(None, "key", 1) == 1
    names.addresses[:] = [NOBODY, "127.0.0.3"]
    with pytest.raises(CacheUnavailable, match="connection refused"):
        await AsyncRedisCache.from_url(url_of(server)).open(None)


@pytest.fixture
def silent(server: Server) -> Iterator[str]:
    """An address on which connections to the server's port are neither accepted nor refused."""
    address = "127.0.0.9"
    with socket.socket() as listening, contextlib.ExitStack() as stack:
        listening.bind((address, server.port))
        listening.listen(0)
        # What is accepted by nobody fills the queue, and then SYNs are dropped.
        for _ in range(4):
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filling.connect((address, server.port))
        yield address


@pytest.mark.parametrize("api", APIS)
async def test_black_hole_address_leaves_time_for_the_others(
    server: Server, names: Names, silent: str, api: Api
) -> None:
    """38. The first address does not respond: the next is tried beside it, and `open` succeeds in time."""
    names.answers.set()
    names.addresses[:] = [silent, silent, "127.0.0.1"]
    options = {"key_prefix": "silent:", "connect_timeout": 5_000}
    async with configured(url_of(server), api, **options) as cache:
        assert await cache.store(None, "key", 1) == 1


@pytest.fixture
def hanging(server: Server) -> Iterator[str]:
    """An address on which connections are made by the kernel, and no server ever answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.8", server.port))
        listening.listen(100)
        yield "127.0.0.8"


@pytest.fixture
def resetting(server: Server) -> Iterator[str]:
    """An address on which connections are accepted, and ended at once."""
    with socket.create_server(("127.0.0.7", server.port)) as listening:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    listening.accept()[0].close()

        thread = threading.Thread(target=accept)
        thread.start()
        yield "127.0.0.7"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("kind", ["hanging", "resetting"])
@pytest.mark.parametrize("api", APIS)
async def test_unresponsive_address_leaves_time_for_the_others(
    server: Server, names: Names, api: Api, kind: str, request: pytest.FixtureRequest
) -> None:
    """38. An address accepts connections and does not serve: the login shows it, and the next is tried."""
    names.answers.set()
    address: str = request.getfixturevalue(kind)
    names.addresses[:] = [address, address, "127.0.0.1"]
    options = {"key_prefix": "hanging:", "connect_timeout": 5_000}
    async with configured(url_of(server), api, **options) as cache:
        assert await cache.store(None, "key", 1) == 1


async def test_unresponsive_address_is_not_retried_at_once(
    server: Server, names: Names, resetting: str
) -> None:
    """Where no other can be connected to, the attempt ends, long before `connect_timeout`."""
    names.answers.set()
    names.addresses[:] = [NOBODY, resetting]
    cache = AsyncRedisCache.from_url(url_of(server), connect_timeout=3_600_000)
    with pytest.raises(CacheUnavailable):
        await cache.open(None)
    assert len(names.asked) == 2


async def test_all_addresses_silent_is_timeout(server: Server, names: Names, silent: str) -> None:
    """38. No address of the host responds: TIMEOUT, and neither a socket nor a task is left."""
    names.answers.set()
    names.addresses[:] = [silent, silent]
    with pytest.raises(CacheTimeout):
        await AsyncRedisCache.from_url(url_of(server), connect_timeout=LIMIT).open(None)
    await await_until(lambda: len(asyncio.all_tasks()) == 1)


def test_families_take_turns() -> None:
    """A network without one of them costs one delay, however many addresses of it there are."""
    v6, v4 = socket.AF_INET6, socket.AF_INET
    addresses: list[tuple[int, Any]] = [(v6, "a"), (v6, "b"), (v6, "c"), (v4, "d"), (v4, "e")]
    assert [address for _, address in _interleaved(addresses)] == ["a", "d", "b", "e", "c"]


async def test_a_busy_executor_is_not_waited_for(server: Server, names: Names) -> None:
    """An application that keeps all threads of its loop busy can still connect."""
    names.answers.set()
    done = threading.Event()
    loop = asyncio.get_running_loop()
    executor = ThreadPoolExecutor(max_workers=1)
    loop.set_default_executor(executor)
    busy = loop.run_in_executor(None, done.wait)
    try:
        async with AsyncRedisCache.from_url(url_of(server)) as cache:
            assert await cache.store(None, "key", 1) == 1
    finally:
        done.set()
        await busy
        executor.shutdown()


async def test_process_without_threads_raises(
    server: Server, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that cannot be started is an error of this attempt, and not of the next."""
    names.answers.set()

    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "name look-up":
            raise RuntimeError("can't start new thread")
        start(thread)

    cache = AsyncRedisCache.from_url(url_of(server))
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(CacheUnavailable, match="could not connect"):
            await cache.open(None)
    async with cache:
        assert await cache.store(None, "key", 1) == 1


@pytest.mark.usefixtures("private_loop")
def test_the_facade_keeps_its_deadline(server: Server, names: Names) -> None:
    """Neither open, close, nor the end of the private loop waits for a name server."""
    cache = RedisCache.from_url(url_of(server), connect_timeout=LIMIT)
    # A fixture of the session may have a private loop too.
    before = {*threading.enumerate()}
    started = time.monotonic()
    with pytest.raises(CacheTimeout):
        cache.open(None)
    cache.close(None)
    # It ends although the name is never answered for, and not before its time.
    assert time.monotonic() - started >= LIMIT / 1000
    begun = {*threading.enumerate()} - before
    assert not [thread for thread in begun if thread.name == "RedisCache"]


def test_a_program_forks_and_ends_while_a_name_is_looked_up(
    start_program: StartProgram, server: Server
) -> None:
    """23. A child that was forked during a name lookup resolves the name itself, and exits without waiting."""
    program = start_program("name_lookup", server.port, LIMIT)
    assert program.line() == "TIMEOUT"
    assert program.line() == "value"
    assert program.line() == "exiting"
    ended = program.wait()
    assert (ended.code, ended.lines, ended.errors) == (0, [], "")
    assert in_time(ended.seconds, ENDING_SECONDS)


def test_loops_of_two_threads_share_a_look_up(names: Names) -> None:
    """Loops that start to resolve a name at once get the same look-up, which ends for both."""
    look_ups = [_start_look_up(NAME, 6379) for _ in range(2)]
    names.answers.set()
    assert look_ups[0] is look_ups[1]
    assert look_ups[0].result(60) == [(socket.AF_INET, ("127.0.0.1", 6379))]
    assert names.asked == [NAME]
