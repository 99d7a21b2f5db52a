"""What an operator is told: one record when something gets worse, and one when it is well again.

Failures come by the thousand, changes of state by ones. A record names the server and the code of the
error, and never a key, a value or a login.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Final, NamedTuple

__all__ = ["EVENTS", "Condition", "Event", "Journal", "Record", "Subject"]

_LOG: Final = logging.getLogger("async_redis_cache")
_LOG.addHandler(logging.NullHandler())


class Event(NamedTuple):
    """A change of state, as it is told."""

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
    ("server_lost", "no connection to {server}: {code}"),
    ("server_found", "connected to {server} again"),
)
REPLICA: Final = _subject(
    ("replica_lost", "no connection to a replica of {server}: {code}"),
    ("replica_found", "connected to a replica of {server} again"),
)
BREAKER: Final = _subject(
    ("breaker_opened", "{server} does not answer, and is left alone: {code}"),
    ("breaker_closed", "{server} answers, and is asked again"),
)
NEAR_LINK: Final = _subject(
    ("near_link_lost", "{server} does not tell what changes, nothing near is given: {code}"),
    ("near_link_armed", "{server} tells what changes again"),
)
SENTINEL_LINK: Final = _subject(
    ("sentinel_link_lost", "the sentinel {server} does not tell who is the master: {code}"),
    ("sentinel_link_armed", "the sentinel {server} tells who is the master again"),
)
DEBTS: Final = _subject(
    ("changes_owed", "changes have failed that {server} is to make good: {code}"),
    ("changes_made_good", "{server} has made good the changes that had failed"),
)
MASTER_MOVED: Final = Event("master_moved", logging.WARNING, "{server} has become a master")
NODE_LEFT: Final = Event(
    "node_left", logging.INFO, "{server} is not asked any more: others have its keys"
)

EVENTS: Final = (
    *(
        event
        for subject in (SERVER, REPLICA, BREAKER, NEAR_LINK, SENTINEL_LINK, DEBTS)
        for event in subject
    ),
    MASTER_MOVED,
    NODE_LEFT,
)
"""All that is ever told."""


class Record(NamedTuple):
    """An event that has happened.

    Attributes:
        event: which.
        server: where; an address, a path, or the name that sentinels know it by.
        code: of the error that showed it; empty where there is none.
    """

    event: Event
    server: str
    code: str

    @property
    def message(self) -> str:
        """In words."""
        return self.event.text.format(server=self.server, code=self.code)


class Condition:
    """Whether something is well: it is, until it gets worse. Each change is told, and only once."""

    __slots__ = ("_is_well", "_server", "_subject", "_tell")

    def __init__(self, subject: Subject, server: str, tell: Callable[[Record], None]) -> None:
        self._subject = subject
        self._server = server
        self._tell = tell
        self._is_well = True

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
    """Tells the log what becomes of one open cache.

    Until it is open nothing is told: who opens it in vain is told by an error.

    Args:
        server: what the server is called.
        also: told of each record as well; it must not block, nor raise.
    """

    def __init__(self, server: str, also: Callable[[Record], None] | None = None) -> None:
        self._server = server
        self._also = also
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
        event, server, code = record
        # Told from the midst of things: a filter that raises must not harm them.
        with contextlib.suppress(Exception):
            _LOG.log(
                event.level,
                record.message,
                extra={"cache_event": event.name, "cache_server": server, "cache_code": code},
            )
        if self._also is not None:
            self._also(record)
