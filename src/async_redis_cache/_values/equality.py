"""Whether what came back is what went in, and where it is not."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, cast

from .json_checks import field_names, parts_of

__all__ = ["difference", "is_equal"]


def is_equal(value: Any, back: Any) -> bool:
    """What `==` says; False where it raises, as of a signalling NaN."""
    try:
        return bool(value == back)
    except Exception:  # noqa: BLE001  an `__eq__` of the user's
        return False


def difference(value: Any, back: Any) -> str | None:
    """The place of the first part that did not come back equal, as `.lines[0].price`; None if all did.

    Asked where `==` says no, which it also says of objects without an `__eq__`, of NaN, and of the
    same moment in two time zones where a clock was put back.
    """
    if value is back:
        return None
    kind = cast("Any", type(value))
    is_container = isinstance(value, _CONTAINERS)
    if not (is_container or field_names(kind)) or not _is_alike(value, back):
        return None if _is_equal_part(value, back) else ""
    for place, part, other in _pairs(value, back):
        found = difference(part, other)
        if found is not None:
            return f"{place}{found}"
    if is_container:
        return None if len(value) == len(back) else ""
    return None if is_equal(value, back) else _other_difference(value, back)


def _is_equal_part(value: Any, back: Any) -> bool:
    if isinstance(value, dt.datetime) and isinstance(back, dt.datetime):
        return _is_same_moment(value, back)
    if isinstance(value, float) and isinstance(back, float) and math.isnan(value):
        return math.isnan(back)
    if isinstance(value, Decimal) and value.is_nan():
        return isinstance(back, Decimal) and str(value) == str(back)
    return is_equal(value, back)


def _is_alike(value: Any, back: Any) -> bool:
    if isinstance(value, _DICT):
        return isinstance(back, _DICT) and value.keys() == back.keys()
    if isinstance(value, (list, tuple)):
        return isinstance(back, (list, tuple)) and isinstance(value, list) == isinstance(back, list)
    return type(value) is type(back)


def _pairs(value: Any, back: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(value, _DICT):
        for key, part in value.items():
            yield "[...]", part, back[key]
        return
    for (place, part), (_, other) in zip(parts_of(value), parts_of(back), strict=False):
        yield place, part, other


def _other_difference(value: Any, back: Any) -> str | None:
    """What an object holds beside its fields: private attributes and extra fields of a model."""
    for place in ("__pydantic_private__", "__pydantic_extra__"):
        ours: dict[str, Any] = getattr(value, place, None) or {}
        theirs: dict[str, Any] = getattr(back, place, None) or {}
        for name, part in ours.items():
            inner = difference(part, theirs[name]) if name in theirs else ""
            if inner is not None:
                return f".{name}{inner}"
        if ours.keys() != theirs.keys():
            return ""
    # Equal in all that can be seen, once moments and NaN are compared as they are meant to be.
    return None


def _is_same_moment(value: dt.datetime, back: dt.datetime) -> bool:
    if value.utcoffset() is None or back.utcoffset() is None:
        return value == back
    return value.astimezone(dt.UTC) == back.astimezone(dt.UTC)


# As variables, so that no type checker takes what is in a value for unknown.
_DICT: Any = dict
_CONTAINERS: Any = (dict, list, tuple)
