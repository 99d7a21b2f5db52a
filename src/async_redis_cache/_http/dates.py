"""Dates of HTTP (RFC 9110, section 5.6.7)."""

from __future__ import annotations

import re
from calendar import monthrange, timegm
from datetime import UTC, datetime
from typing import Final

from .fields import Fields, values

__all__ = ["date_in", "parse_http_date"]

_MONTHS: Final = (
    "jan",
    "feb",
    "mar",
    "apr",
    "may",
    "jun",
    "jul",
    "aug",
    "sep",
    "oct",
    "nov",
    "dec",
)
_MONTH: Final = f"(?P<month>{'|'.join(_MONTHS)})"
_TIME: Final = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_DAY_NAME: Final = "(?:mon|tue|wed|thu|fri|sat|sun)"
_LONG_DAY_NAME: Final = "(?:monday|tuesday|wednesday|thursday|friday|saturday|sunday)"
_FORMATS: Final = tuple(
    # Recipients accept letters of either case, which senders do not all keep to.
    re.compile(pattern, re.IGNORECASE | re.ASCII)
    for pattern in (
        rf"{_DAY_NAME}, (?P<day>\d\d) {_MONTH} (?P<year>\d{{4}}) {_TIME} GMT",
        rf"{_LONG_DAY_NAME}, (?P<day>\d\d)-{_MONTH}-(?P<year>\d\d) {_TIME} GMT",
        rf"{_DAY_NAME} {_MONTH} (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",
    )
)
_SHORT_YEAR_DIGITS: Final = 2
_CENTURY: Final = 100
_MOST_YEARS_AHEAD: Final = 50
_LAST: Final = {"hour": 23, "minute": 59, "second": 60}


def parse_http_date(text: str, *, this_year: int) -> int | None:
    """Return the seconds since 1970 of a date in any of the three formats of HTTP; None for anything else.

    Args:
        text: the value of a field.
        this_year: a year of two digits that appears to be more than 50 years after it is one of the century before.
    """
    for pattern in _FORMATS:
        match = pattern.fullmatch(text)
        if match is not None:
            return _seconds(match.groupdict(), this_year)
    return None


def date_in(fields: Fields, name: bytes, now: float) -> int | None:
    """Return the date in a field, in seconds since 1970; None without a valid one. A field with several lines has none.

    Args:
        fields: of a message.
        name: of the field.
        now: in seconds since 1970.
    """
    lines = values(fields, name)
    if len(lines) != 1:
        return None
    return parse_http_date(lines[0], this_year=datetime.fromtimestamp(now, UTC).year)


def _seconds(found: dict[str, str], this_year: int) -> int | None:
    year = int(found["year"])
    if len(found["year"]) == _SHORT_YEAR_DIGITS:
        year += this_year - this_year % _CENTURY
        if year > this_year + _MOST_YEARS_AHEAD:
            year -= _CENTURY
    month, day = _MONTHS.index(found["month"].lower()) + 1, int(found["day"])
    time = [int(found[part]) for part in _LAST]
    if any(part > last for part, last in zip(time, _LAST.values(), strict=True)):
        return None
    if year == 0 or not 0 < day <= monthrange(year, month)[1]:
        return None
    return timegm((year, month, day, *time))
