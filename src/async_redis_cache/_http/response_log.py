"""The log records about responses. Those of a mistake in the program are logged once, and not for each request."""

from __future__ import annotations

from typing import Final

from async_redis_cache import CacheInputError
from async_redis_cache._common.health_log import Record, log_record
from async_redis_cache._common.log_events import (
    RESPONSE_NOT_STORED,
    RESPONSES_NOT_CACHED,
    STALE_RESPONSE_SERVED,
)

__all__ = ["TagWarning", "log_stale_response", "warn_without_effect"]

_WARNED: Final = set[str]()


def warn_without_effect(opted_in: str, reason: str) -> None:
    """Log once that responses are not cached, although they are opted in.

    Args:
        opted_in: what opts them in.
        reason: why it has no effect.
    """
    if opted_in not in _WARNED:
        _WARNED.add(opted_in)
        log_record(Record(RESPONSES_NOT_CACHED, "", reason, opted_in))


class TagWarning:
    """Logs the first time that a response is not stored because one of its tags is invalid: it could not invalidate it.

    Args:
        source: of the tags.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._is_logged = False

    def log(self, error: CacheInputError) -> None:
        """Log what `distinct_tags` raised."""
        if not self._is_logged:
            self._is_logged = True
            log_record(Record(RESPONSE_NOT_STORED, "", str(error), self._source))


def log_stale_response(error: Exception) -> None:
    """Log the exception of a handler, which is being handled, since a stale response takes its place."""
    log_record(Record(STALE_RESPONSE_SERVED, "", type(error).__name__), with_traceback=True)
