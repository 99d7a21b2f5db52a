"""Reads the value of one option: text from a configuration file, or the type itself."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, cast

from .address_map import AddressMap
from .durations import CENTURY, FOREVER
from .errors import CacheConfigError

__all__ = ["bad_option", "path_of", "read_option"]

_WORDS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_DIGITS: Final = re.compile(r"[0-9]{1,18}")
_TIMEDELTA: Final = re.compile(
    r"(?:(?P<days>[0-9]{1,9}) days?, )?(?P<hours>[0-9]{1,2}):(?P<minutes>[0-9]{2}):(?P<seconds>[0-9]{2}(\.[0-9]{1,6})?)"
)
"""The text of a timedelta, which `ConfigParams` makes of one."""
_DECIMAL: Final = re.compile(r"[0-9]{1,3}(\.[0-9]{1,17})?")


def path_of(field: dataclasses.Field[Any]) -> str:
    """The path of an option in a configuration, such as `options.timeout`."""
    section = field.metadata["section"]
    return f"{section}.{field.name.removeprefix(f'{section}_')}"


def read_option(field: dataclasses.Field[Any], value: Any) -> Any:
    """Convert the configured value of an option, which is text if it comes from a file.

    Raises:
        CacheConfigError: BAD_OPTION. The message never contains the value.
    """
    if isinstance(field.default, bool):
        word = value if isinstance(value, bool) else _WORDS.get(str(value).strip().lower())
        if word is None:
            raise bad_option(field, "must be true or false")
        return word
    if isinstance(field.default, int):
        return _read_number(field, value)
    if isinstance(field.default, float):
        return _read_share(field, value)
    if field.metadata["is_object"]:
        if value is not None and not (callable(value) or hasattr(value, "get_credentials")):
            raise bad_option(field, "must be a function, or an object with get_credentials")
        return value
    if field.metadata["is_map"] and isinstance(value, Mapping):
        value = AddressMap.text_of(cast("Mapping[object, object]", value))
    text = "" if value is None else str(value)
    choices = field.metadata["choices"]
    if choices and text not in choices:
        raise bad_option(field, f"must be one of {', '.join(choices)}")
    return text


def _read_number(field: dataclasses.Field[Any], value: Any) -> int:
    unit, least, most = (field.metadata[name] for name in ("unit", "least", "most"))
    may_be_forever = field.metadata["may_be_forever"]
    if may_be_forever and (value is FOREVER or str(value).strip().lower() == FOREVER.value):
        return CENTURY
    if unit == "ms" and isinstance(value, str) and (match := _TIMEDELTA.fullmatch(value.strip())):
        value = timedelta(**{name: float(part) for name, part in match.groupdict("0").items()})
    if unit == "ms" and isinstance(value, timedelta):
        # Rounded up, as timeouts of calls are.
        value = -(value // -timedelta(milliseconds=1))
    # Of the number types only int, as in calls; and text, because configuration files contain nothing else.
    is_accepted = isinstance(value, (int, str)) and not isinstance(value, bool)
    digits = str(value).strip() if is_accepted else ""
    number = int(digits) if _DIGITS.fullmatch(digits) else -1
    if not least <= number <= most:
        units = "milliseconds" if unit == "ms" else unit
        in_range = f"a whole number{units and f' of {units}'} from {least} to {most}"
        problem = f"must be {'forever or ' if may_be_forever else ''}{in_range}"
        raise bad_option(field, problem)
    return number


def _read_share(field: dataclasses.Field[Any], value: Any) -> float:
    most = field.metadata["most"]
    number = -1.0
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str) and _DECIMAL.fullmatch(text := value.strip()):
        number = float(text)
    if not 0 <= number <= most:
        raise bad_option(field, f"must be a number from 0 to {most}, such as 0.5")
    return float(number)


def bad_option(field: dataclasses.Field[Any], problem: str) -> CacheConfigError:
    """Create the error for an option with an invalid value."""
    # Never with a cause: the invalid value may be a secret in the wrong place.
    return CacheConfigError("BAD_OPTION", f"{path_of(field)} {problem}")
