"""Logins that change: what a program may pass as `options.credential_provider`, and what connections ask."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

__all__ = [
    "CredentialProvider",
    "CredentialSource",
    "Credentials",
    "Login",
    "LoginListener",
    "LoginSource",
    "NoLoginError",
    "login_of",
]

Login = tuple[()] | tuple[str] | tuple[str, str]
"""User and password, a password for the default user, or nothing."""
Credentials = str | tuple[str] | tuple[str, str]
"""What a provider may return: as `Login`, or a password alone."""


class CredentialProvider(Protocol):
    """An object that returns the login, such as a `CredentialProvider` of redis-py.

    If it has a coroutine method `get_credentials_async`, that is awaited instead.
    """

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return user and password, or a password alone. May block."""
        ...


CredentialSource = CredentialProvider | Callable[[], Credentials | Awaitable[Credentials]]
"""What `options.credential_provider` accepts."""


class NoLoginError(Exception):
    """There is no login at present. The text never contains a part of one, nor the text of another exception."""


class LoginListener(Protocol):
    """Receives what a source streams, on the event loop on which it began to listen."""

    def on_login(self, login: Login) -> None:
        """Use another login from now on: the former one is about to end."""
        ...

    def on_login_error(self, name: str) -> None:
        """The login could not be renewed, because of an exception of the type with this name."""
        ...


class LoginSource(Protocol):
    """Returns the login for each connection."""

    name: str
    """In messages."""

    async def login(self, refused: Login | None) -> Login:
        """Return the login to use now.

        Args:
            refused: what this returned for the same connection, if a server has refused it since.

        Raises:
            NoLoginError: there is none at present.
        """
        ...

    def listen(self, listener: LoginListener) -> Callable[[], None]:
        """Report streamed logins on the running event loop, until the returned function is called."""
        ...

    def after_fork(self) -> LoginSource:
        """Return the same source for a forked child, in which no thread of the parent exists."""
        ...


def login_of(given: Any) -> Login:
    """Return what a provider has returned as a login; an empty one if it is none."""
    parts: list[Any] = [given]
    if isinstance(given, (tuple, list)):
        parts = [*cast("Any", given)]
    if len(parts) == 2 and not parts[0]:
        parts = parts[1:]
    is_login = len(parts) in {1, 2} and all(isinstance(part, str) and part for part in parts)
    return cast("Login", tuple(parts)) if is_login else ()
