"""The login from a credential store, which is looked up again when a server refuses it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from async_redis_cache._common.blocking_call import BlockingCall
from async_redis_cache._common.logins import Login, LoginListener

__all__ = ["StoredLogin"]


class StoredLogin:
    """A source that returns the login found at `open`, until a server refuses it and the store has another.

    Args:
        login: found at `open`.
        look_up: looks it up again, and may block and raise anything.
        patience: seconds after which a look-up is taken to hang.
    """

    name = "the credential store"

    def __init__(self, login: Login, look_up: Callable[[], Login], patience: float) -> None:
        self._login = login
        self._look_up = look_up
        self._patience = patience
        self._call = BlockingCall(look_up, "credential look-up", patience)

    async def login(self, refused: Login | None) -> Login:
        """Return the login; look it up first if it is the one that was refused."""
        if refused == self._login:
            # A store may raise anything; the refusal is reported.
            with contextlib.suppress(Exception):
                self._login = await self._call() or self._login
        return self._login

    def listen(self, listener: LoginListener) -> Callable[[], None]:  # noqa: ARG002  for other sources
        """Do nothing: a store reports no changes."""
        return lambda: None

    def after_fork(self) -> StoredLogin:
        """Return a source without the parent's threads."""
        return StoredLogin(self._login, self._look_up, self._patience)
