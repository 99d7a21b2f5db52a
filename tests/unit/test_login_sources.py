"""Sources of logins: what they return, and what they make of functions that misbehave."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache._client.reauthentication import Reauthentication
from async_redis_cache._common.blocking_call import BlockingCall
from async_redis_cache._common.health_log import Condition, Record
from async_redis_cache._common.log_events import LOGIN
from async_redis_cache._common.logins import Login, NoLoginError, login_of
from async_redis_cache._connection.provided_login import (
    CurrentLogin,
    LoginIfRequired,
    ProvidedLogin,
)
from harness.token_stream import TokenStream

if TYPE_CHECKING:
    from collections.abc import Callable

LOGINS = {
    "pw": ("pw",),
    ("pw",): ("pw",),
    ("", "pw"): ("pw",),
    ("user", "pw"): ("user", "pw"),
}
NONE: list[Any] = [
    None,
    "",
    (),
    ("user", ""),
    ("a", "b", "c"),
    ("user", None),
    b"pw",
    7,
    {"a": "b"},
]


@pytest.mark.parametrize(("given", "login"), LOGINS.items())
def test_logins(given: Any, login: Login) -> None:
    """User and password, or a password alone."""
    assert login_of(given) == login


@pytest.mark.parametrize("given", NONE)
async def test_what_is_no_login_is_not_used(given: Any) -> None:
    """It is never sent, and never quoted."""
    with pytest.raises(NoLoginError, match="returned neither"):
        await ProvidedLogin(lambda: given, 1).login(None)


def exit_of(kind: type[BaseException]) -> Callable[[], Any]:
    """A function that raises an exception."""

    def leave() -> Any:
        raise kind

    return leave


@pytest.mark.parametrize(
    "kind", [SystemExit, KeyboardInterrupt, StopIteration, asyncio.CancelledError, GeneratorExit]
)
async def test_function_that_exits_stops_no_event_loop(kind: type[BaseException]) -> None:
    """Its exception ends in the thread: 33."""
    with pytest.raises(NoLoginError, match=f"raised {kind.__name__}$"):
        await ProvidedLogin(exit_of(kind), 1).login(None)


@pytest.mark.parametrize(
    ("kind", "said"), [(SystemExit, "raised SystemExit"), (asyncio.CancelledError, "was cancelled")]
)
async def test_coroutine_that_exits_stops_no_event_loop(
    kind: type[BaseException], said: str
) -> None:
    """The same for a coroutine function, which runs on the event loop."""

    async def leave() -> Any:
        exit_of(kind)()

    with pytest.raises(NoLoginError, match=said):
        await ProvidedLogin(leave, 1).login(None)


async def test_cancelled_caller_is_cancelled() -> None:
    """A cancellation from outside is not taken for the provider's."""
    asked = asyncio.Event()

    async def wait() -> Any:
        asked.set()
        await asyncio.Event().wait()

    asking = asyncio.create_task(ProvidedLogin(wait, 1).login(None))
    await asked.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_call_without_a_thread_is_made_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that cannot start a thread now may do so at the next attempt."""
    call = BlockingCall(lambda: 1, "call", 1)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(20):
            with pytest.raises(RuntimeError):
                await call()
    assert await call() == 1


async def test_redis_py_gets_the_login_either_way() -> None:
    """redis-py up to 5.1 calls the one method, later releases await the other."""
    current = CurrentLogin(ProvidedLogin(lambda: ("user", "pw"), 1))
    until = asyncio.get_running_loop().time() + 60
    assert await current.renew(until, was_refused=False)
    assert not await current.renew(until, was_refused=True)
    assert current.get_credentials() == await current.get_credentials_async() == ("user", "pw")


class Target:
    """Connections that note the logins they get."""

    def __init__(self) -> None:
        self.logins: list[Login] = []

    def reauthenticate(self, login: Login) -> None:
        self.logins.append(login)


async def test_stopped_cache_does_not_log_in_again() -> None:
    """What was streamed before the cache was closed, and arrives later, has no effect."""
    target, records = Target(), list[Record]()
    provider = TokenStream("user", "pw")
    source = LoginIfRequired(ProvidedLogin(provider, 1)).after_fork()
    condition = Condition(LOGIN, "server", records.append)
    listening = Reauthentication(source, lambda: [target], condition)
    await provider.stream("user", "second")
    await asyncio.sleep(0)
    assert target.logins == [("user", "second")]
    provider.report(("user", "third"))
    provider.report_error(OSError())
    listening.stop()
    listening.stop()
    await asyncio.sleep(0)
    assert len(target.logins) == 1
    assert records == []


async def test_streamed_value_that_is_no_login_is_ignored() -> None:
    """New connections get an error that says so."""
    target = Target()
    provider = TokenStream("user", "pw")
    condition = Condition(LOGIN, "server", lambda _: None)
    listening = Reauthentication(ProvidedLogin(provider, 1), lambda: [target], condition)
    for value in (None, "", object(), ("user", "second")):
        provider.report(value)
    await asyncio.sleep(0)
    assert target.logins == [("user", "second")]
    listening.stop()


def test_stream_survives_a_closed_event_loop() -> None:
    """A cache that was not closed is not told, and fails no other."""
    provider = TokenStream("user", "pw")
    target = Target()

    async def listen(number: int) -> Reauthentication:
        condition = Condition(LOGIN, "server", lambda _: None)
        listening = Reauthentication(ProvidedLogin(provider, 1), lambda: [target], condition)
        if number:
            provider.report(("user", "second"))
            await asyncio.sleep(0)
        return listening

    kept = [asyncio.run(listen(number)) for number in range(2)]
    assert target.logins == [("user", "second")]
    for listening in kept:
        listening.stop()
