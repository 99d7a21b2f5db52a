"""Tags of a response that the cache refuses. The response is then not stored, since the tag could not invalidate it."""

from __future__ import annotations

from async_redis_cache import CacheInputError
from async_redis_cache._common.health_log import Record, log_record
from async_redis_cache._common.log_events import RESPONSE_NOT_STORED

__all__ = ["TagWarning"]


class TagWarning:
    """Logs that a response is not stored because of its tags: the first one of a source of tags.

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
