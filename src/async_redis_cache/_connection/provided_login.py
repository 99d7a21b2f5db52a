"""Logins from `options.credential_provider`: asked for every connection, and streamed by providers that renew tokens."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from redis.credentials import CredentialProvider

from async_redis_cache._common.blocking_call import BlockingCall, ExitError, TooManyCallsError
from async_redis_cache._common.logins import (
    Login,
    LoginListener,
    LoginSource,
    NoLoginError,
    login_of,
)

from .login_stream import is_streaming, listen

__all__ = ["CurrentLogin", "LoginIfRequired", "ProvidedLogin"]


class CurrentLogin(CredentialProvider):
    """Gives redis-py the login that a source has returned for the connection that is being opened.

    redis-py 5.0 and 5.1 ask a provider only synchronously, which would block the event loop; and none of its releases
    limits the time.

    Args:
        source: asked before each attempt to connect.
    """

    def __init__(self, source: LoginSource) -> None:
        self._source = source
        self._login: Login = ()

    def get_credentials(self) -> Any:
        """Return the login. Called by redis-py."""
        return self._login

    async def get_credentials_async(self) -> Any:
        """Return the login. Called by redis-py 5.2 and newer."""
        return self._login

    async def renew(self, until: float, *, was_refused: bool) -> bool:
        """Ask the source; return whether the login has changed.

        Args:
            until: when to give up, on the event loop's clock.
            was_refused: whether the server has just refused the current login.

        Raises:
            NoLoginError: the source has none, or does not return it in time.
        """
        former = self._login
        try:
            async with asyncio.timeout_at(until):
                self._login = await self._source.login(former if was_refused else None)
        except TimeoutError:
            problem = f"{self._source.name} did not return a login within options.connect_timeout"
            raise NoLoginError(problem) from None
        return self._login != former


class ProvidedLogin:
    """A source that asks a provider.

    Args:
        provider: see `CredentialSource`.
        patience: seconds after which a call of a blocking provider is taken to hang.
    """

    name = "options.credential_provider"

    def __init__(self, provider: Any, patience: float) -> None:
        self._provider = provider
        self._patience = patience
        get: Any = getattr(provider, "get_credentials", provider)
        self._call: Callable[[], Awaitable[Any]]
        if _is_asynchronous(provider):
            self._call = provider.get_credentials_async
        elif _is_coroutine_function(get):
            self._call = get
        else:
            self._call = partial(
                _called, BlockingCall(lambda: [get()], "credential provider", patience)
            )

    async def login(self, refused: Login | None) -> Login:  # noqa: ARG002  a provider is asked in any case
        """Ask the provider.

        Raises:
            NoLoginError: it raised an exception, or returned something else than a login.
        """
        task = asyncio.current_task()
        problem = ""
        given: Any = None
        try:
            given = await self._call()
        except TooManyCallsError:
            problem = "does not return"
        except ExitError as error:
            problem = f"raised {error}"
        except asyncio.CancelledError:
            # Unless it comes from the provider, such as from a scope that it has cancelled.
            if task is None or task.cancelling():
                raise
            problem = "was cancelled"
        except (Exception, SystemExit) as error:  # noqa: BLE001  a provider may raise anything
            problem = f"raised {type(error).__name__}"
        login = () if problem else login_of(given)
        if not login:
            # Without a cause: its text may contain a part of the login.
            problem = problem or "returned neither (user, password) nor a password"
            raise NoLoginError(f"{self.name} {problem}") from None
        return login

    def listen(self, listener: LoginListener) -> Callable[[], None]:
        """Report the logins that the provider streams, if it does."""
        if is_streaming(self._provider):
            return listen(self._provider, listener)
        return _do_nothing

    def after_fork(self) -> ProvidedLogin:
        """Return a source without the parent's threads."""
        return ProvidedLogin(self._provider, self._patience)


class LoginIfRequired:
    """A source for servers that may not require a login: none at first, and another source's once that is refused.

    Args:
        source: returns the login of servers that require one.
    """

    def __init__(self, source: LoginSource) -> None:
        self.name = source.name
        self._source = source
        self._is_required = False

    @property
    def is_required(self) -> bool:
        """Whether the server has refused a connection without a login."""
        return self._is_required

    async def login(self, refused: Login | None) -> Login:
        """Return the login, or an empty one as long as the server accepts that.

        Raises:
            NoLoginError: the other source has none.
        """
        if refused is not None:
            # A server without a password refuses logins of the default user.
            self._is_required = not refused
        return await self._source.login(None) if self._is_required else ()

    def listen(self, listener: LoginListener) -> Callable[[], None]:
        """Report the logins that the other source streams."""
        return self._source.listen(listener)

    def after_fork(self) -> LoginIfRequired:
        """Return a source without the parent's threads."""
        return LoginIfRequired(self._source.after_fork())


async def _called(call: BlockingCall[list[Any]]) -> Any:
    """Return what a function returns that callers share, or the result of the awaitable that it returns."""
    while True:
        given = await call()
        if given and not inspect.isawaitable(given[0]):
            return given[0]
        if given:
            # It can be awaited once: those that share the call find an empty list, and call again.
            return await given.pop()


def _do_nothing() -> None:
    pass


def _is_asynchronous(provider: Any) -> bool:
    """Whether to await `get_credentials_async`, rather than call `get_credentials` in a thread."""
    kind = _class_of(provider)
    if not _overrides(kind, "get_credentials_async"):
        return False
    # Token managers of redis-py request tokens without awaiting anything, in coroutines as well.
    return not (is_streaming(provider) and _overrides(kind, "get_credentials"))


def _class_of(provider: Any) -> Any:
    return provider.__class__


def _overrides(kind: Any, name: str) -> bool:
    """Whether a class has this method, and not from redis-py's base class, where one raises and the other blocks."""
    own = getattr(kind, name, None)
    return own is not None and own is not getattr(CredentialProvider, name, None)


def _is_coroutine_function(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  that of an instance may be a coroutine function
    )
