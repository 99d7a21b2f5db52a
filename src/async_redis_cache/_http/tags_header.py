"""Tags of a response in a header field of the application, which is taken off before the response is sent."""

from __future__ import annotations

import re
from typing import Final

from async_redis_cache import CacheInputError
from async_redis_cache._common.key_rules import distinct_tags

from .fields import Fields
from .response_log import TagWarning
from .run import Run

__all__ = ["TagsHeader"]

_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class TagsHeader:
    """A header field with tags, separated by commas.

    Args:
        name: of the field.

    Raises:
        ValueError: the name is not that of a field.
    """

    def __init__(self, name: str) -> None:
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"tags_header must be the name of a header field, not {name!r}")
        self.name: str = name
        self._field = name.lower().encode()
        self._warning = TagWarning(f"tags in the field {name}")

    def take(self, fields: Fields, run: Run | None) -> Fields:
        """Return the fields without this one, and add its tags to the response.

        A response with an invalid tag is not stored, since that tag could not invalidate it. The first one is logged.

        Args:
            fields: of the response.
            run: of the application; None if it is not to be stored.
        """
        lines = [value for name, value in fields if name == self._field]
        if not lines:
            return fields
        if run is not None:
            try:
                tags = {tag.strip(" \t") for line in lines for tag in _text(line).split(",")}
                run.tags.update(distinct_tags(tags - {""}))
            except CacheInputError as error:
                run.give_up()
                self._warning.log(error)
        return tuple(field for field in fields if field[0] != self._field)


def _text(line: bytes) -> str:
    """Return a line as text: Starlette encodes fields in Latin-1, aiohttp in UTF-8."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")
