"""The data of the simulated server, and the commands and scripts that the library sends.

The scripts run as they are, in the Lua that Redis runs. The rest is as little of Redis as they need.
"""

from __future__ import annotations

import fnmatch
import inspect
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from lupa import lua51  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EPOCH", "RefusedError", "Status", "Store"]

EPOCH: Final = 1_700_000_000_000_000
"""Microseconds: what time it is on the server when the loop's clock says 0."""
_WRONG_TYPE: Final = "WRONGTYPE Operation against a key holding the wrong kind of value"


class Status(bytes):
    """A reply such as +OK."""

    __slots__ = ()


class RefusedError(Exception):
    """An error reply."""


class Store:
    """Keys, their data and when they expire.

    Attributes:
        now: seconds, as on the loop's clock; whoever executes something sets it.
        changed: the keys that were changed since somebody looked.
        expired: those of them that had expired when somebody came upon them.
        stored: what was stored since, even where it was evicted at once.
        is_full: whether there is no memory for more.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.changed: dict[bytes, None] = {}
        self.expired: set[bytes] = set()
        self.stored: list[tuple[bytes, bytes]] = []
        self.is_full = False
        self.data: dict[bytes, Any] = {}
        self.expires: dict[bytes, int] = {}

    @property
    def micros(self) -> int:
        """The server's time, in microseconds."""
        return EPOCH + int(self.now * 1_000_000)

    @property
    def millis(self) -> int:
        """The same in milliseconds."""
        return self.micros // 1000

    def execute(self, words: list[bytes]) -> Any:
        """What this command is answered."""
        name = words[0].upper()
        if name == b"EVAL":
            return self._eval(*words[1:])
        command: Callable[..., Any] | None = getattr(self, f"_{name.decode().lower()}", None)
        if command is None:
            raise RefusedError(f"ERR unknown command {name!r}")
        try:
            inspect.signature(command).bind(*words[1:])
        except TypeError:
            raise RefusedError(f"ERR wrong number of arguments for {name!r}") from None
        return command(*words[1:])

    def flush(self) -> None:
        """Forget everything."""
        for key in self.data:
            self.changed[key] = None
        self.data.clear()
        self.expires.clear()

    def drop(self, key: bytes) -> bool:
        """Remove a key; whether it was there."""
        self.expires.pop(key, None)
        there = self.data.pop(key, None) is not None
        if there:
            self.changed[key] = None
        return there

    def expire_due(self) -> None:
        """Remove what has expired, as Redis does now and then."""
        for key in [key for key, at in self.expires.items() if at <= self.millis]:
            self.drop(key)

    def _put(self, key: bytes, value: Any) -> None:
        # A script that has begun to change something is let finish.
        if self.is_full and not self.changed:
            raise RefusedError("OOM command not allowed when used memory > 'maxmemory'.")
        self.data[key] = value
        self.changed[key] = None

    def _at(self, key: bytes) -> Any:
        at = self.expires.get(key)
        if at is not None and at <= self.millis and self.drop(key):
            self.expired.add(key)
        return self.data.get(key)

    def _string(self, key: bytes) -> bytes | None:
        value = self._at(key)
        if value is not None and not isinstance(value, bytes):
            raise RefusedError(_WRONG_TYPE)
        return value

    def _scores(self, key: bytes) -> dict[bytes, float]:
        value: Any = self._at(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise RefusedError(_WRONG_TYPE)
        return value  # pyright: ignore[reportUnknownVariableType]

    # Strings and lives.

    def _ping(self) -> Status:
        return Status(b"PONG")

    def _time(self) -> list[bytes]:
        return [b"%d" % part for part in divmod(self.micros, 1_000_000)]

    def _get(self, key: bytes) -> bytes | None:
        return self._string(key)

    def _mget(self, *keys: bytes) -> list[bytes | None]:
        found = map(self._at, keys)
        return [value if isinstance(value, bytes) else None for value in found]

    def _set(self, key: bytes, value: bytes, unit: bytes, life: bytes) -> Status:
        assert unit == b"PX", "nothing is stored for ever"
        if int(life) <= 0:
            raise RefusedError("ERR invalid expire time in 'set' command")
        self._put(key, value)
        self.stored.append((key, value))
        self.expires[key] = self.millis + int(life)
        return Status(b"OK")

    def _getdel(self, key: bytes) -> bytes | None:
        value = self._string(key)
        self.drop(key)
        return value

    def _unlink(self, *keys: bytes) -> int:
        return sum(self._at(key) is not None and self.drop(key) for key in keys)

    def _exists(self, key: bytes) -> int:
        return int(self._at(key) is not None)

    def _getrange(self, key: bytes, first: bytes, last: bytes) -> bytes:
        value = self._string(key) or b""
        end = int(last)
        return value[int(first) : len(value) if end == -1 else end + 1]

    def _setrange(self, key: bytes, first: bytes, part: bytes) -> int:
        value, at = self._string(key) or b"", int(first)
        self._put(key, value[:at].ljust(at, b"\0") + part + value[at + len(part) :])
        return len(self.data[key])

    def _pttl(self, key: bytes) -> int:
        if self._at(key) is None:
            return -2
        return self.expires[key] - self.millis if key in self.expires else -1

    def _pexpire(self, key: bytes, life: bytes) -> int:
        return self._pexpireat(key, b"%d" % (self.millis + int(life)))

    def _pexpireat(self, key: bytes, moment: bytes) -> int:
        if self._at(key) is None:
            return 0
        self.expires[key] = int(moment)
        self.changed[key] = None
        if int(moment) <= self.millis:
            self.drop(key)
        return 1

    def _scan(self, cursor: bytes, *options: bytes) -> list[Any]:
        _, pattern, _, _ = options
        mask = pattern.replace(b"\\", b"").decode("latin-1")
        keys = [key for key in sorted(self.data) if self._at(key) is not None]
        found = [key for key in keys if fnmatch.fnmatchcase(key.decode("latin-1"), mask)]
        # In two steps, to have more than one; a key is of the same step whatever else is there.
        step = int(cursor)
        return [b"%d" % (1 - step), [key for key in found if sum(key) % 2 == step]]

    # Sorted sets.

    def _zcard(self, key: bytes) -> int:
        return len(self._scores(key))

    def _zadd(self, key: bytes, *words: bytes) -> int:
        scores, only_there = dict(self._scores(key)), words[0] == b"XX"
        pairs = words[only_there:]
        added = 0
        for score, member in zip(pairs[::2], pairs[1::2], strict=True):
            if member in scores or not only_there:
                added += member not in scores
                scores[member] = float(score)
        if scores:
            self._put(key, scores)
        return added

    def _zrem(self, key: bytes, member: bytes) -> int:
        return self._without(key, [member] if member in self._scores(key) else [])

    def _zremrangebyscore(self, key: bytes, least: bytes, most: bytes) -> int:
        assert least == b"-inf"
        assert most.startswith(b"(")
        limit = float(most[1:])
        return self._without(
            key, [one for one, score in self._scores(key).items() if score < limit]
        )

    def _zpopmin(self, key: bytes, count: bytes) -> list[bytes]:
        first = self._in_order(key)[: int(count)]
        self._without(key, [member for member, _ in first])
        return [word for member, score in first for word in (member, b"%.17g" % score)]

    def _zrange(self, key: bytes, *_: bytes) -> list[bytes]:
        return [
            word
            for member, score in self._in_order(key)[-1:]
            for word in (member, b"%.17g" % score)
        ]

    def _in_order(self, key: bytes) -> list[tuple[bytes, float]]:
        return sorted(self._scores(key).items(), key=lambda item: (item[1], item[0]))

    def _without(self, key: bytes, members: list[bytes]) -> int:
        if members:
            scores = {one: at for one, at in self._scores(key).items() if one not in members}
            self.drop(key)
            if scores:
                self._put(key, scores)
        return len(members)

    # Scripts.

    def _eval(self, source: bytes, count: bytes, *words: bytes) -> Any:
        keys = int(count)
        return _scripts().run(self, source, words[:keys], words[keys:])


class _Scripts:
    """A Lua that has `redis.call`; made once, since it is slow to make."""

    def __init__(self) -> None:
        runtime: Any = lua51.LuaRuntime
        self._lua: Any = runtime(encoding=None)
        self._functions: dict[bytes, Any] = {}
        self._store: Store
        self._type: Any = self._lua.eval(b"type")
        library = self._lua.table_from({b"call": self._call, b"pcall": self._pcall})
        self._lua.globals()[b"redis"] = library

    def run(self, store: Store, source: bytes, keys: Any, words: Any) -> Any:
        """What a script answers."""
        function = self._functions.get(source)
        if function is None:
            function = self._lua.execute(b"return function(KEYS, ARGV)\n" + source + b"\nend")
            self._functions[source] = function
        self._store = store
        table = self._lua.table_from
        return self._reply(function(table(list(keys)), table(list(words))))

    def _call(self, *words: Any) -> Any:
        return self._to_lua(self._store.execute([_word(word) for word in words]))

    def _pcall(self, *words: Any) -> Any:
        try:
            return self._call(*words)
        except RefusedError as error:
            return self._lua.table_from({b"err": str(error).encode()})

    def _to_lua(self, reply: Any) -> Any:
        if reply is None:
            return False
        if isinstance(reply, Status):
            return self._lua.table_from({b"ok": bytes(reply)})
        if isinstance(reply, list):
            return self._lua.table_from([self._to_lua(one) for one in reply])  # pyright: ignore[reportUnknownVariableType]
        return reply

    def _reply(self, value: Any) -> Any:  # noqa: PLR0911  a kind each
        if value is None or value is False:
            return None
        if value is True:
            return 1
        if isinstance(value, bytes):
            return value
        if isinstance(value, int | float):
            return int(value)
        if (error := value[b"err"]) is not None:
            return RefusedError(error.decode())
        if (status := value[b"ok"]) is not None:
            return Status(status)
        parts: list[Any] = []
        while (part := value[len(parts) + 1]) is not None:
            parts.append(self._reply(part))
        return parts


@cache
def _scripts() -> _Scripts:
    return _Scripts()


def _word(word: Any) -> bytes:
    if isinstance(word, bytes):
        return word
    return b"%d" % word if float(word).is_integer() else b"%.17g" % word
