"""Tags of a response that the cache refuses. The response is then not stored, since the tag could not invalidate it."""

from __future__ import annotations

from collections.abc import Iterable

from async_redis_cache import CacheInputError
from async_redis_cache._common.health_log import Record, log_record
from async_redis_cache._common.log_events import RESPONSE_NOT_STORED
from async_redis_cache._common.options import MOST_TAGS
from async_redis_cache._values.codec import encode_name

__all__ = ["TagWarning", "check_tags"]


def check_tags(tags: Iterable[str]) -> frozenset[str]:
    """Return the tags of a response.

    Raises:
        CacheInputError: BAD_TAG.
    """
    if isinstance(tags, str):
        raise CacheInputError("BAD_TAG", "tags must be a collection of str, such as a tuple")
    found = frozenset(tags)
    for tag in found:
        encode_name(tag, "tag")
    if len(found) > MOST_TAGS:
        raise CacheInputError("BAD_TAG", f"at most {MOST_TAGS} tags are allowed, not {len(found)}")
    return found


class TagWarning:
    """Logs that a response is not stored because of its tags: the first one of a source of tags.

    Args:
        source: of the tags.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._is_logged = False

    def log(self, error: CacheInputError) -> None:
        """Log what `check_tags` raised."""
        if not self._is_logged:
            self._is_logged = True
            log_record(Record(RESPONSE_NOT_STORED, "", str(error), self._source))
