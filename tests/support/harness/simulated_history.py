"""The history of the simulated server, against which every result is checked."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from async_redis_cache._engine import tags as _tags
from async_redis_cache._protocol import commands as _commands
from async_redis_cache._protocol import lease_scripts as _leases
from async_redis_cache._protocol import size_limit as _bounded
from async_redis_cache._protocol.record import VALUE, is_record, record_of
from harness.simulated_server import Executed
from harness.simulated_store import EPOCH

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from harness.simulated_store import Store

__all__ = ["Origin", "Version", "ViolationError", "Witness"]


class ViolationError(AssertionError):
    """A promise was broken."""


@dataclass(eq=False)
class Origin:
    """Where a value comes from: a store, or a load."""

    number: int
    key: bytes
    process: str
    begun: float
    by_load: bool
    tags: tuple[str, ...] = ()
    holds_right: bool = False
    ended: float = math.inf
    never: bool = False
    """Whether it has failed, and so must never be seen."""


class Version(NamedTuple):
    """What a key held on the server from a moment on."""

    at: float
    number: int | None
    """Which value; None for none, or a placeholder."""
    fresh_until: float
    slack: float
    tags: Mapping[bytes, bytes]
    data: Any


_NEVER: Final = Version(0.0, None, math.inf, 0.0, {}, None)


@dataclass
class Witness(Executed):
    """Everything that the server has executed."""

    origins: dict[int, Origin] = field(default_factory=dict[int, Origin])
    versions: defaultdict[bytes, list[Version]] = field(
        default_factory=lambda: defaultdict(lambda: [_NEVER])
    )
    is_write: defaultdict[bytes, list[float]] = field(default_factory=lambda: defaultdict(list))
    """When a key was changed by a change, even where nothing was there to be removed."""
    news: defaultdict[tuple[str, bytes], list[tuple[float, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """When a process could know of a change of a key, and when that was."""
    first_seen: dict[int, float] = field(default_factory=dict[int, float])
    """When a value was first on the server."""
    last_stored: dict[int, float] = field(default_factory=dict[int, float])
    """When it was stored last: a store that has had no answer is sent again."""

    def __post_init__(self) -> None:
        # Looked up now, since a test may have planted a defect in one.
        self._publications = frozenset({_leases._PUBLISH, _leases._PUBLISH_BOUNDED})
        touches = {_commands._TOUCH_SCRIPT, _bounded._TOUCH, _tags._FETCH_SOURCE}
        rights = {_leases._LEASE, _leases._RENEW, _leases._RELEASE}
        self._lease = _leases._LEASE
        self._no_changes = self._publications | touches | rights
        """Scripts that change keys for loads and lives, and overtake no load."""

    def executed(self, words: list[bytes], store: Store) -> None:
        """See `Executed`."""
        now, name = store.now, words[0]
        source = words[1] if name == b"EVAL" else b""
        # What the server does by itself makes no value old.
        is_change = name not in {b"PEXPIRE", b"server"} and source not in self._no_changes
        named = _named(words, source) if is_change else []
        if source == self._lease:
            self._check_grant(words, store)
        for key in store.changed:
            version = _version(now, store.data.get(key), store.expires.get(key))
            if version.number is not None and version.number not in self.first_seen:
                self.first_seen[version.number] = now
                if source in self._publications:
                    self._check_publication(key, version)
            self.versions[key].append(version)
            if is_change and key not in named and key not in store.expired:
                self.is_write[key].append(now)
        for key in named:
            self.is_write[key].append(now)
        for _, data in store.stored:
            # In a bounded cache it may have been evicted, or replaced, as soon as it was stored.
            number = _version(now, data, None).number
            if number is not None:
                self.first_seen.setdefault(number, now)
                if is_change:
                    self.last_stored[number] = now

    def news_arrived(self, process: str, at: float, changes: list[tuple[bytes, float]]) -> None:
        """See `Executed`."""
        for key, changed_at in changes:
            self.news[process, key].append((at, changed_at))

    def changed_between(self, key: bytes, begin: float, end: float) -> float | None:
        """The first change of a key within this time, the ends excluded."""
        moments = self.is_write.get(key, ())
        at = bisect_left(moments, begin + 1e-12)
        return moments[at] if at < len(moments) and moments[at] < end else None

    def replaced_between(self, key: bytes, begin: float, end: float) -> bool:
        """Whether a key came to hold something else within this time, and be it nothing."""
        return any(begin < version.at < end for version in self.versions[key])

    def known(self, process: str, key: bytes, by: float) -> float:
        """The latest change of which a process could know by a moment."""
        return max((when for at, when in self.news.get((process, key), ()) if at <= by), default=0)

    def held(self, key: bytes, begin: float, end: float) -> Iterator[tuple[Version, float]]:
        """What a key held within this time, each until when."""
        versions = self.versions[key]
        for version, until in zip(
            versions, [*(one.at for one in versions[1:]), math.inf], strict=True
        ):
            if version.at <= end and until >= begin:
                yield version, until

    def tag_was(self, key: bytes, version: bytes, begin: float, end: float) -> bool:
        """Whether a tag had this version at some moment of this time."""
        return any(held.data == version for held, _ in self.held(key, begin, end))

    def _check_grant(self, words: list[bytes], store: Store) -> None:
        """The right to load is taken from nobody who holds it, unless by force."""
        key, token, force = words[3], words[4], words[7]
        before = self.versions[key][-1].data
        if key not in store.changed or force == b"1" or not isinstance(before, bytes):
            return
        held = record_of(before) if is_record(before) else None
        if (
            held is not None
            and held.is_held
            and held.leased_until > store.millis
            and before[3:19] != token
        ):
            raise ViolationError(f"{key!r}: the right to load it was granted to two at {store.now}")

    def _check_publication(self, key: bytes, version: Version) -> None:
        assert version.number is not None
        origin = self.origins[version.number]
        overtaken_at = self.changed_between(key, origin.begun, version.at)
        if overtaken_at is not None:
            raise ViolationError(
                f"{key!r}: {origin} was published at {version.at}, and overtaken at {overtaken_at}"
            )
        for tag, stamp in version.tags.items():
            if int(stamp[:16]) - EPOCH > origin.begun * 1_000_000 + 1:
                raise ViolationError(
                    f"{key!r}: {origin} was published, its tag {tag!r} invalid since"
                )


def _named(words: Sequence[bytes], source: bytes) -> list[bytes]:
    """The keys that a change names."""
    name = words[0]
    if name in {b"UNLINK", b"GETDEL"}:
        return [*words[1:]]
    if name == b"SET":
        return [words[1]]
    if name == b"EVAL" and source != _bounded._SWEEP:
        return [key for key in words[3 : 3 + int(words[2])] if not key.endswith(b"\0index")]
    return []


def _version(now: float, data: Any, expires: int | None) -> Version:
    until = math.inf if expires is None else (expires * 1000 - EPOCH) / 1_000_000
    number, slack, payload, tags = None, 0.0, data, {}
    if isinstance(data, bytes) and is_record(data):
        record = record_of(data)
        assert record is not None, "damaged"
        payload = record.payload if record.kind == VALUE else None
        slack, tags = record.stale_ttl / 1000, dict(record.tags)
        if slack:
            until = min(until, (record.fresh_until * 1000 - EPOCH) / 1_000_000)
    if isinstance(payload, bytes) and payload.startswith(b"{"):
        number = int(json.loads(payload)["number"])
    return Version(now, number, until, slack, tags, data)
