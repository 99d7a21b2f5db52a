"""A provider that streams tokens, as those of redis-py for identity services do."""

from __future__ import annotations

import asyncio
import threading
from typing import Any


class Token:
    """As much of a token of redis-py as clients read."""

    def __init__(self, user: str, value: str) -> None:
        self._user = user
        self._value = value

    def try_get(self, key: str) -> str | None:
        """The user, by the name that identity services give it."""
        return self._user if key == "oid" else None

    def get_value(self) -> str:
        """The password."""
        return self._value


class TokenStream:
    """Gives its token to new connections, and its callbacks each following one."""

    # As in a dataclass, which compares its fields.
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, user: str, value: str) -> None:
        self.user = user
        self._value = value
        self.gate = threading.Event()
        """While it is not set, `get_credentials` waits before it returns."""
        self.gate.set()
        self.waiting = False
        self._on_next: Any = None
        self._on_error: Any = None

    def get_credentials(self) -> tuple[str, str]:
        """Return the token that is the current one when this is called."""
        login = self.user, self._value
        self.waiting = True
        self.gate.wait()
        self.waiting = False
        return login

    async def get_credentials_async(self) -> tuple[str, str]:
        """As redis-py has it: a coroutine that blocks the event loop."""
        raise AssertionError("would block the event loop")

    def on_next(self, callback: Any) -> None:
        """Replace the callback for tokens."""
        self._on_next = callback

    def on_error(self, callback: Any) -> None:
        """Replace the callback for errors."""
        self._on_error = callback

    def is_streaming(self) -> bool:
        """Whether there is a callback."""
        return self._on_next is not None

    async def stream(self, user: str, value: str) -> None:
        """Report another token, in a thread as the synchronous token manager does, and await it as the other does."""
        self.user, self._value = user, value
        token = Token(user, value)
        await (await asyncio.to_thread(self._on_next, token))

    def report(self, value: object) -> None:
        """Report a value of any kind, in this thread."""
        self._on_next(value)

    def report_error(self, error: Exception) -> Any:
        """Report that there is no further token, in this thread."""
        return self._on_error(error)

    async def fail(self, error: Exception) -> None:
        """Report it in a thread, and await that."""
        await (await asyncio.to_thread(self.report_error, error))
