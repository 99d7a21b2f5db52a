"""The events of the log records of a cache: their names, levels and texts.

A text names what failed, where, and what to do. It may refer to `{server}`, `{code}` and `{subject}` of its record.
"""

from __future__ import annotations

import logging
from typing import Final, NamedTuple

__all__ = [
    "CIRCUIT",
    "DEPRECATED_EVENT_NAMES",
    "EVENTS",
    "EVICTIONS",
    "FAILED_OPEN",
    "INVALIDATIONS_DROPPED",
    "INVALIDATIONS_FAILED",
    "INVALIDATION_CHANNEL",
    "LOGIN",
    "MASTER_CHANGED",
    "NODE_REMOVED",
    "NOT_CACHED",
    "PENDING_INVALIDATIONS",
    "REFRESH_FAILED",
    "RESPONSES_NOT_CACHED",
    "RESPONSE_NOT_STORED",
    "SCRIPTS_REFUSED",
    "SENTINEL",
    "SERVER",
    "STALE_RESPONSE_SERVED",
    "UNREADABLE",
    "ConditionEvents",
    "Event",
]


class Event(NamedTuple):
    """A change of state that is logged: its name, the level, and the text with placeholders."""

    name: str
    level: int
    text: str


class ConditionEvents(NamedTuple):
    """The two events of something that is either up or down."""

    down: Event
    up: Event


def _condition(down: tuple[str, str], up: tuple[str, str]) -> ConditionEvents:
    return ConditionEvents(
        Event(down[0], logging.WARNING, down[1]), Event(up[0], logging.INFO, up[1])
    )


SERVER: Final = _condition(
    (
        "server_down",
        "no connection to {server}: {code}; calls that need it fail. Check the server, the network and the login",
    ),
    ("server_up", "connected to {server} again"),
)
CIRCUIT: Final = _condition(
    (
        "circuit_opened",
        (
            "circuit for {server} opened: {code}; loads skip the cache and go to the origin. "
            "Watch the load on the origin"
        ),
    ),
    ("circuit_closed", "circuit for {server} closed: the server responds again"),
)
INVALIDATION_CHANNEL: Final = _condition(
    (
        "invalidation_channel_down",
        "invalidation channel to {server} is down: {code}; the near cache is off until it is up",
    ),
    ("invalidation_channel_up", "invalidation channel to {server} is up; the near cache is on"),
)
SENTINEL: Final = _condition(
    (
        "sentinel_down",
        "no connection to Sentinel {server}: {code}; the other Sentinels are used. Check this one",
    ),
    ("sentinel_up", "connected to Sentinel {server} again"),
)
LOGIN: Final = _condition(
    (
        "login_not_renewed",
        (
            "options.credential_provider cannot renew the login at {server}: {code}; open connections end with the former "
            "login. Check what the provider depends on"
        ),
    ),
    ("login_renewed", "options.credential_provider renews the login at {server} again"),
)
PENDING_INVALIDATIONS: Final = _condition(
    (
        "invalidations_pending",
        (
            "invalidations are pending on {server}: {code}; other processes may read old values until the "
            "server takes them. Do not restart this process before then"
        ),
    ),
    ("invalidations_flushed", "no invalidations are pending on {server} any more"),
)
INVALIDATIONS_DROPPED: Final = Event(
    "invalidations_dropped",
    logging.WARNING,
    "pending invalidations on {server} were dropped, at close or beyond 10,000 keys; old values can be read "
    "until they expire",
)
INVALIDATIONS_FAILED: Final = Event(
    "invalidations_failed",
    logging.ERROR,
    "a database transaction has committed, but its invalidations failed: {code}; old values can be read until "
    "they expire",
)
MASTER_CHANGED: Final = Event("master_changed", logging.WARNING, "{server} is now a master")
NODE_REMOVED: Final = Event(
    "node_removed", logging.INFO, "{server} is no longer used: other nodes serve its keys"
)
FAILED_OPEN: Final = Event(
    "failed_open",
    logging.WARNING,
    "calls fail with {code} and return as from an empty cache, because options.fail_open is always",
)
REFRESH_FAILED: Final = Event(
    "refresh_failed",
    logging.WARNING,
    "background refresh with {subject} failed: {code}; the stored value is used until it expires. "
    "Check the source that the function loads from",
)
NOT_CACHED: Final = Event(
    "result_not_cached",
    logging.WARNING,
    "results of {subject} are returned but not cached: {code}. Change the result, the serializer or "
    "options.max_value_size",
)
EVICTIONS: Final = Event(
    "evictions_started",
    logging.WARNING,
    "options.max_size is reached on {server}: the values that expire first are evicted. "
    "Raise it if hits matter more than memory",
)
SCRIPTS_REFUSED: Final = Event(
    "scripts_refused",
    logging.WARNING,
    "the user may not run scripts ({code}), which options.max_size needs: calls that write will fail. "
    "Grant +eval +evalsha, or set options.max_size to 0",
)
UNREADABLE: Final = Event(
    "unreadable_values",
    logging.WARNING,
    "stored values cannot be read and count as misses: {code}. "
    "Check for another program, version or signing_key that uses the same key_prefix",
)
RESPONSES_NOT_CACHED: Final = Event(
    "responses_not_cached", logging.WARNING, "{subject} has no effect: {code}"
)
RESPONSE_NOT_STORED: Final = Event(
    "response_not_stored",
    logging.WARNING,
    "a response was not stored because its {subject} are invalid: {code}",
)
STALE_RESPONSE_SERVED: Final = Event(
    "stale_response_served",
    logging.ERROR,
    "a handler failed with {code}, and a stale response was served instead",
)

EVENTS: Final = (
    *(
        event
        for condition in (
            SERVER,
            CIRCUIT,
            INVALIDATION_CHANNEL,
            SENTINEL,
            LOGIN,
            PENDING_INVALIDATIONS,
        )
        for event in condition
    ),
    INVALIDATIONS_DROPPED,
    INVALIDATIONS_FAILED,
    MASTER_CHANGED,
    NODE_REMOVED,
    FAILED_OPEN,
    REFRESH_FAILED,
    NOT_CACHED,
    EVICTIONS,
    SCRIPTS_REFUSED,
    UNREADABLE,
    RESPONSES_NOT_CACHED,
    RESPONSE_NOT_STORED,
    STALE_RESPONSE_SERVED,
)
"""Every event that is logged."""

DEPRECATED_EVENT_NAMES: Final = {
    "server_down": "server_lost",
    "server_up": "server_found",
    "circuit_opened": "breaker_opened",
    "circuit_closed": "breaker_closed",
    "invalidation_channel_down": "near_link_lost",
    "invalidation_channel_up": "near_link_armed",
    "sentinel_down": "sentinel_link_lost",
    "sentinel_up": "sentinel_link_armed",
    "invalidations_pending": "changes_owed",
    "invalidations_flushed": "changes_made_good",
    "master_changed": "master_moved",
    "node_removed": "node_left",
    "refresh_failed": "load_failed",
    "evictions_started": "evicting",
}
"""By event, its former name, kept for one release as `cache_event_deprecated`."""
