"""The log records of a cache: one when its state gets worse, and one when it is well again.

Failures come by the thousand, changes of state by ones. A record names the cache, the server and the code
of the error, and never a key, a value or a login.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

__all__ = [
    "EVENTS",
    "EVICTIONS",
    "FAILED_OPEN",
    "LOAD_FAILED",
    "NOT_CACHED",
    "UNREADABLE",
    "Condition",
    "Event",
    "Journal",
    "Record",
    "Subject",
]

_LOG: Final = logging.getLogger("async_redis_cache")
_LOG.addHandler(logging.NullHandler())
_MOST_SUBJECTS: Final = 100
"""How many subjects of one event are logged: functions and types are few, and may be made at run time."""
_OTHERS: Final = "others, which are not logged one by one"


class Event(NamedTuple):
    """A change of state, as it is logged."""

    name: str
    level: int
    text: str


class Subject(NamedTuple):
    """What can get worse, and better."""

    worse: Event
    better: Event


def _subject(worse: tuple[str, str], better: tuple[str, str]) -> Subject:
    return Subject(
        Event(worse[0], logging.WARNING, worse[1]), Event(better[0], logging.INFO, better[1])
    )


SERVER: Final = _subject(
    (
        "server_lost",
        "no connection to {server}: {code}; calls that need it fail. Check that it runs, and the network",
    ),
    ("server_found", "connected to {server} again"),
)
REPLICA: Final = _subject(
    (
        "replica_lost",
        "no connection to a replica of {server}: {code}; the master answers. Check the replica",
    ),
    ("replica_found", "connected to a replica of {server} again"),
)
BREAKER: Final = _subject(
    (
        "breaker_opened",
        "circuit to {server} opened: {code}; loads go to the origin without it. Watch the origin's load",
    ),
    ("breaker_closed", "circuit to {server} closed: it answers again"),
)
NEAR_LINK: Final = _subject(
    (
        "near_link_lost",
        "invalidations from {server} are not received: {code}; the near cache is off until they are",
    ),
    ("near_link_armed", "invalidations from {server} are received again; the near cache is on"),
)
SENTINEL_LINK: Final = _subject(
    (
        "sentinel_link_lost",
        "no connection to the sentinel {server}: {code}; the other sentinels are used. Check it",
    ),
    ("sentinel_link_armed", "connected to the sentinel {server} again"),
)
DEBTS: Final = _subject(
    (
        "changes_owed",
        (
            "invalidations are pending on {server}: {code}; other processes may read old values until it "
            "answers. Do not restart this process before"
        ),
    ),
    ("changes_made_good", "no invalidations are pending on {server} any more"),
)
INVALIDATIONS_DROPPED: Final = Event(
    "invalidations_dropped",
    logging.WARNING,
    "pending invalidations on {server} were dropped, at close or beyond 10,000 keys; old values can be read "
    "until they expire",
)
MASTER_MOVED: Final = Event("master_moved", logging.WARNING, "{server} has become a master")
NODE_LEFT: Final = Event(
    "node_left", logging.INFO, "{server} is not used any more: other nodes have its keys"
)
FAILED_OPEN: Final = Event(
    "failed_open",
    logging.WARNING,
    "calls fail with {code} and return what an empty cache would: options.fail_open is always",
)
LOAD_FAILED: Final = Event(
    "load_failed",
    logging.WARNING,
    "background load of {subject} failed: {code}; the stored value is used until it expires. "
    "Check what the function loads from",
)
NOT_CACHED: Final = Event(
    "result_not_cached",
    logging.WARNING,
    "results of {subject} are returned and not cached: {code}. Change the result, the serializer or "
    "options.max_value_size",
)
EVICTIONS: Final = Event(
    "evicting",
    logging.WARNING,
    "options.max_size is reached on {server}: the values that expire first are evicted. "
    "Raise it if hits matter more than memory",
)
UNREADABLE: Final = Event(
    "unreadable_values",
    logging.WARNING,
    "stored values cannot be read and count as misses: {code}. "
    "Check for another program, version or signing_key under the same prefix",
)

EVENTS: Final = (
    *(
        event
        for subject in (SERVER, REPLICA, BREAKER, NEAR_LINK, SENTINEL_LINK, DEBTS)
        for event in subject
    ),
    INVALIDATIONS_DROPPED,
    MASTER_MOVED,
    NODE_LEFT,
    FAILED_OPEN,
    LOAD_FAILED,
    NOT_CACHED,
    EVICTIONS,
    UNREADABLE,
)
"""All that is ever logged."""


_RECOVERIES: Final = frozenset({SERVER.better, BREAKER.better})


class Record(NamedTuple):
    """An event that has happened.

    Attributes:
        event: which.
        server: where; an address, a path, or the name that sentinels know it by.
        code: of the error that showed it, or its type; empty where there is none.
        subject: the function that is concerned; empty where none is.
        cache: the name of the cache.
    """

    event: Event
    server: str
    code: str
    subject: str = ""
    cache: str = ""

    @property
    def message(self) -> str:
        """In words."""
        text = self.event.text.format(server=self.server, code=self.code, subject=self.subject)
        text = f"[{self.cache}] {text}" if self.cache else text
        # One line: a name that a server or a program gave must not look like another record.
        return text if text.isprintable() else ascii(text)[1:-1]


class Condition:
    """Whether something is well: it is, until it gets worse. Each change is told, and only once."""

    __slots__ = ("_is_well", "_server", "_subject", "_tell")

    def __init__(self, subject: Subject, server: str, tell: Callable[[Record], None]) -> None:
        self._subject = subject
        self._server = server
        self._tell = tell
        self._is_well = True

    @property
    def server(self) -> str:
        """Its name."""
        return self._server

    def worse(self, code: str) -> None:
        """It is not well, which was shown by an error of this code."""
        if self._is_well:
            self._is_well = False
            self._tell(Record(self._subject.worse, self._server, code))

    def better(self) -> None:
        """It is well."""
        if not self._is_well:
            self._is_well = True
            self._tell(Record(self._subject.better, self._server, ""))

    def end(self) -> bool:
        """From now on nothing is told; whether it was well."""
        self._tell = _ignore
        return self._is_well


def _ignore(_: Record) -> None:
    pass


class Journal:
    """Logs what becomes of one open cache.

    Until it is open nothing is logged: an `open` that fails raises an error instead.

    Args:
        server: the server's name.
        also: called with each record as well; it must not block, nor raise.
        cache: the cache's name, which all its records have.
    """

    def __init__(
        self, server: str, also: Callable[[Record], None] | None = None, *, cache: str = ""
    ) -> None:
        self._server = server
        self._also = also
        self._cache = cache
        self._lock = threading.Lock()
        self._logged: dict[Event, set[str]] = {}
        """What was logged once, by event."""
        # A node of a cluster may be let go and met again in the same condition.
        self._conditions: dict[tuple[Subject, str], Condition] = {}
        self._held_back: list[Record] | None = []
        self._is_over = False

    def begin(self) -> None:
        """The cache is open."""
        records, self._held_back = self._held_back, None
        for record in records or ():
            self._tell(record)

    def end(self) -> None:
        """It is being closed: what ends now is meant to."""
        self._is_over = True

    def condition(self, subject: Subject, server: str | None = None) -> Condition:
        """That of a subject, of one server of several where it is named."""
        server = self._server if server is None else server
        known = self._conditions.get((subject, server))
        if known is None:
            known = Condition(subject, server, self._tell)
            self._conditions[subject, server] = known
        return known

    def once(self, event: Event, subject: str = "", code: str = "") -> None:
        """Log an event of a subject the first time that it happens.

        Of one event up to 100 subjects are logged, then once that there are others. Nothing that
        comes from a caller, such as a key, may be a subject.

        Args:
            event: what has happened.
            subject: the function, where one is concerned.
            code: of the error, or its type.
        """
        logged = self._logged.setdefault(event, set())
        if subject in logged or len(logged) > _MOST_SUBJECTS:
            return
        # Values may be read in the threads of the callers.
        with self._lock:
            if len(logged) == _MOST_SUBJECTS:
                subject = _OTHERS
            is_first = subject not in logged
            logged.add(subject)
        if is_first:
            self._tell(Record(event, self._server, code, subject))

    def moved(self, server: str) -> None:
        """This server was no master so far."""
        self._tell(Record(MASTER_MOVED, server, ""))

    def left(self, server: str, *subjects: Subject) -> None:
        """These do not matter any more; if one was not well, that is over."""
        known = [self._conditions.pop((subject, server), None) for subject in subjects]
        were_well = [condition.end() for condition in known if condition is not None]
        if not all(were_well):
            self._tell(Record(NODE_LEFT, server, ""))

    def _tell(self, record: Record) -> None:
        if self._is_over:
            return
        if self._held_back is not None:
            self._held_back.append(record)
            return
        if record.event in _RECOVERIES:
            # The next time is a change of state again.
            self._logged.pop(FAILED_OPEN, None)
        record = record._replace(cache=self._cache)
        # Called from within changes of state: a filter that raises must not break them.
        with contextlib.suppress(Exception):
            _LOG.log(
                record.event.level,
                record.message,
                extra={
                    "cache_event": record.event.name,
                    "cache_name": record.cache,
                    "cache_server": record.server,
                    "cache_code": record.code,
                    "cache_subject": record.subject,
                },
            )
        if self._also is not None:
            self._also(record)
