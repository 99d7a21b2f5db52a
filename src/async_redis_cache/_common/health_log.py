"""The log records of a cache: one for each change of state, rather than one for each failure.

While a server is unreachable thousands of calls may fail; one record is logged when the outage begins, and one
when it ends. A record names the cache, the server and the code of the error, never a key, a value or a login.

The attributes of a record, besides its text: `cache_event` (the event's name), `cache_name`, `cache_server`,
`cache_code`, `cache_subject` and, for one release, `cache_event_deprecated`: the former name of an event that
was renamed, empty for the others.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

from .log_events import (
    CIRCUIT,
    DEPRECATED_EVENT_NAMES,
    FAILED_OPEN,
    MASTER_CHANGED,
    NODE_REMOVED,
    SERVER,
    ConditionEvents,
    Event,
)

__all__ = ["Condition", "HealthLog", "Record", "log_record"]

_LOG: Final = logging.getLogger("async_redis_cache")
_LOG.addHandler(logging.NullHandler())
_MOST_SUBJECTS: Final = 100
"""How many subjects of one event are logged. There are few functions and types, but a program may create
more of them at run time."""
_OTHERS: Final = "others, which are not logged individually"
_RECOVERIES: Final = frozenset({SERVER.up, CIRCUIT.up})


class Record(NamedTuple):
    """One occurrence of an event.

    Attributes:
        event: the event.
        server: the server's address, its socket path, or its service name at Sentinel.
        code: the code or the type of the error that caused it; empty if there is none.
        subject: the function concerned; empty if there is none.
        cache: the name of the cache.
    """

    event: Event
    server: str
    code: str
    subject: str = ""
    cache: str = ""

    @property
    def message(self) -> str:
        """The text, starting with the cache's name in brackets; always a single line."""
        text = self.event.text.format(server=self.server, code=self.code, subject=self.subject)
        text = f"[{self.cache}] {text}" if self.cache else text
        # A name supplied by a server or a program must not be able to forge a second record.
        return text if text.isprintable() else ascii(text)[1:-1]


class Condition:
    """Whether something is up, as it is at first. Each change is recorded, and only once.

    Args:
        events: for up and down.
        server: the server's name.
        on_record: called with the record of each change.
    """

    __slots__ = ("_events", "_is_up", "_on_record", "_server")

    def __init__(
        self, events: ConditionEvents, server: str, on_record: Callable[[Record], None]
    ) -> None:
        self._events = events
        self._server = server
        self._on_record = on_record
        self._is_up = True

    @property
    def server(self) -> str:
        """The server's name."""
        return self._server

    def down(self, code: str) -> None:
        """Record that it is down, because of an error with this code. Without effect if it is down already."""
        if self._is_up:
            self._is_up = False
            self._on_record(Record(self._events.down, self._server, code))

    def up(self) -> None:
        """Record that it is up again. Without effect if it is up already."""
        if not self._is_up:
            self._is_up = True
            self._on_record(Record(self._events.up, self._server, ""))

    def end(self) -> bool:
        """Record nothing from now on, and return whether it was up."""
        self._on_record = _ignore
        return self._is_up


def _ignore(_: Record) -> None:
    pass


class HealthLog:
    """Logs the changes of state of one open cache.

    Records that come before `begin` are held back. They are never logged if `open` fails, which raises an
    error instead.

    Args:
        server: the server's name.
        on_record: called with each record as well. It must neither block nor raise.
        cache: the cache's name, which is part of every record.
    """

    def __init__(
        self, server: str, on_record: Callable[[Record], None] | None = None, *, cache: str = ""
    ) -> None:
        self._server = server
        self._on_record = on_record
        self._cache = cache
        self._lock = threading.Lock()
        self._logged: dict[Event, set[str]] = {}
        """The subjects that `once` has logged, by event."""
        # A cluster node that is removed and added again continues with the same condition.
        self._conditions: dict[tuple[ConditionEvents, str], Condition] = {}
        self._held_back: list[Record] | None = []
        self._is_over = False

    def begin(self) -> None:
        """Log from now on: the cache is open."""
        records, self._held_back = self._held_back, None
        for record in records or ():
            self._log(record)

    def end(self) -> None:
        """Log nothing from now on: connections that `close` ends are not outages."""
        self._is_over = True

    def condition(self, events: ConditionEvents, server: str | None = None) -> Condition:
        """Return the condition with these events, always the same object for the same server.

        Args:
            events: for up and down.
            server: the name of one server of several; by default the cache's.
        """
        server = self._server if server is None else server
        known = self._conditions.get((events, server))
        if known is None:
            known = Condition(events, server, self._log)
            self._conditions[events, server] = known
        return known

    def once(self, event: Event, subject: str = "", code: str = "") -> None:
        """Log an event the first time that it occurs for a subject.

        For each event up to 100 subjects are logged, and then a single record that there are others. A
        subject must not come from a caller, as a key does.

        Args:
            event: the event.
            subject: the function concerned, if there is one.
            code: the code or the type of the error.
        """
        logged = self._logged.setdefault(event, set())
        if subject in logged or len(logged) > _MOST_SUBJECTS:
            return
        # Values may be decoded in the threads of the callers.
        with self._lock:
            if len(logged) == _MOST_SUBJECTS:
                subject = _OTHERS
            is_first = subject not in logged
            logged.add(subject)
        if is_first:
            self._log(Record(event, self._server, code, subject))

    def master_changed(self, server: str) -> None:
        """Log that this server has become a master."""
        self._log(Record(MASTER_CHANGED, server, ""))

    def node_removed(self, server: str, *events: ConditionEvents) -> None:
        """Forget the conditions of a cluster node; log its removal if one of them was down."""
        known = [self._conditions.pop((each, server), None) for each in events]
        were_up = [condition.end() for condition in known if condition is not None]
        if not all(were_up):
            self._log(Record(NODE_REMOVED, server, ""))

    def _log(self, record: Record) -> None:
        if self._is_over:
            return
        if self._held_back is not None:
            self._held_back.append(record)
            return
        if record.event in _RECOVERIES:
            # The next outage is logged again.
            self._logged.pop(FAILED_OPEN, None)
        record = record._replace(cache=self._cache)
        log_record(record)
        if self._on_record is not None:
            self._on_record(record)


def log_record(record: Record, *, with_traceback: bool = False) -> None:
    """Pass a record to `logging`, whether or not a cache is open.

    Args:
        record: the record.
        with_traceback: whether it has the traceback of the exception that is being handled.
    """
    # The caller is in the middle of a change of state or of a request, which a log filter that raises must not break.
    with contextlib.suppress(Exception):
        _LOG.log(
            record.event.level,
            record.message,
            exc_info=with_traceback,
            extra={
                "cache_event": record.event.name,
                "cache_event_deprecated": DEPRECATED_EVENT_NAMES.get(record.event.name, ""),
                "cache_name": record.cache,
                "cache_server": record.server,
                "cache_code": record.code,
                "cache_subject": record.subject,
            },
        )
