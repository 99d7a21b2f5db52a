"""Templates of keys and tags over the arguments of a function."""

from __future__ import annotations

import operator
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self, cast

from async_redis_cache._common.key_rules import CONTROL, KEY_BYTES

from .argument_text import PLAIN

__all__ = ["Template"]


class _Field(NamedTuple):
    """A field of a template.

    Attributes:
        name: the field as written in the template.
        place: the position of the argument.
        path: returns the attribute or item of the argument that the field names; None: the argument itself.
        form: the format of the value, such as "{!r:>8}".
        separator: a character of the text that follows the field; "" for the last field.
    """

    name: str
    place: int
    path: Callable[[Any], Any] | None
    form: str
    separator: str = ""


class Template:
    """A template in the syntax of `str.format`, over the arguments of a function by name.

    The result is that of `str.format`, with one exception: in every field but the last, the character that separates
    the field from the next, and each percent sign, is escaped as %XX. Otherwise "{}:{}" would give the same text for
    ("a:b", "c") and ("a", "b:c").

    Args:
        text: the template.
        names: the names of the arguments, in order.
        what: the subject of error messages, such as "the key of shop.find".

    Attributes:
        prefix: the text before the first field.

    Raises:
        TypeError: a field does not name an argument; two fields have no separator between them; the template is
            empty, too long or contains control characters, so that the cache would refuse every result.
        ValueError: the syntax is invalid, such as "{user.}" or "{user!x}".
    """

    def __init__(self, text: str, names: Sequence[str], what: str) -> None:
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"{what} must be a str, not {type(text).__name__}")
        self._what = what
        fields, self._texts = _parsed(text, names, what)
        self._fields = [
            field._replace(separator=_separator(between, what))
            for field, between in zip(fields, self._texts[1:-1], strict=False)
        ] + fields[-1:]
        self.prefix = self._texts[0]
        separators = {field.separator for field in self._fields if field.separator}
        literal = "".join(self._texts)
        if not text or len(literal.encode()) > KEY_BYTES or CONTROL.search(literal):
            raise TypeError(
                f"{what} must have 1 to {KEY_BYTES} bytes of text, without control characters"
            )
        # A result with more separators than the template has one in a value, which is to be escaped.
        self._counts = [(separator, literal.count(separator)) for separator in separators]
        self._is_whole = [(field.place, field.path) for field in fields] == [
            (place, None) for place in range(len(names))
        ]
        self._only = -1
        """The position of the argument if the template is one field without path and format; otherwise -1."""
        if len(fields) == 1 and fields[0].path is None and fields[0].form == "{}":
            self._only = fields[0].place
        forms = [*(field.form for field in fields), ""]
        self._format = "".join(
            _escaped_braces(between) + form
            for between, form in zip(self._texts, forms, strict=True)
        ).format

    def fill(self, arguments: Sequence[Any]) -> str:
        """Return the text for these arguments, one for each name.

        Raises:
            TypeError: an argument has no text that is the same in every process.
        """
        if self._only >= 0:
            # The common case, without `format`, which would return the same.
            value = arguments[self._only]
            if type(value) in _FORMATTED_AS_IS:
                return f"{self.prefix}{value}{self._texts[1]}"
        values: Sequence[Any] = arguments
        if not self._is_whole:
            values = [
                arguments[place] if path is None else path(arguments[place])
                for _, place, path, _, _ in self._fields
            ]
        for value in values:
            if type(value) not in PLAIN:
                self._check(values)
                break
        text = self._format(*values)
        if self._counts:
            if "%" in text:
                return self._escaped(values)
            for separator, count in self._counts:
                if text.count(separator) != count:
                    return self._escaped(values)
        return text

    def _check(self, values: Sequence[Any]) -> None:
        for field, value in zip(self._fields, values, strict=True):
            try:
                is_stable = _is_stable(value, field.form)
            except RecursionError:
                is_stable = False
            if not is_stable:
                raise TypeError(
                    f"{self._what} cannot contain {{{field.name}}}: {type(value).__qualname__} has no "
                    "text that is the same in every process"
                )

    def _escaped(self, values: Sequence[Any]) -> str:
        parts = [self.prefix]
        for field, value, between in zip(self._fields, values, self._texts[1:], strict=True):
            text = field.form.format(value)
            if field.separator:
                text = text.replace("%", _percent("%"))
                text = text.replace(field.separator, _percent(field.separator))
            parts += text, between
        return "".join(parts)


def _parsed(text: str, names: Sequence[str], what: str) -> tuple[list[_Field], list[str]]:
    """Return the fields of a template, and the texts before, between and after them."""
    fields: list[_Field] = []
    texts = [""]
    for literal, name, spec, conversion in string.Formatter().parse(text):
        texts[-1] += literal
        if name is None:
            continue
        # "user.id" and "row[id]" name the arguments "user" and "row".
        first = name.replace("[", ".").partition(".")[0]
        if first not in names:
            raise TypeError(f"{what} names {name!r}, which is not a parameter of the function")
        if spec and "{" in spec:
            raise TypeError(f"{what} has a nested field in {name!r}")
        if conversion and conversion not in "rsa":
            raise ValueError(f"{what} has an unknown conversion: !{conversion}")
        form = f"{{{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}}}"
        fields.append(_Field(name, names.index(first), _path(name[len(first) :]), form))
        texts.append("")
    return fields, texts


def _path(path: str) -> Callable[[Any], Any] | None:
    if not path:
        return None
    if re.fullmatch(r"(\.\w+)+", path):
        return operator.attrgetter(path[1:])

    def follow(value: Any) -> Any:
        return _FORMATTER.get_field(f"0{path}", (value,), {})[0]

    # An invalid path raises here, and not at the first call.
    follow(_Anything())
    return follow


class _Anything:
    """Has every attribute and every item."""

    def __getattr__(self, _: str) -> Self:
        return self

    def __getitem__(self, _: object) -> Self:
        return self


def _separator(between: str, what: str) -> str:
    """Return a character between two fields that does not occur in its escaped form, %XX."""
    found = re.search(r"[^%0-9A-F]", between)
    if found is None:
        raise TypeError(f"{what} has two fields without a separator, such as a colon, between them")
    return found[0]


def _percent(sign: str) -> str:
    return "".join(f"%{byte:02X}" for byte in sign.encode())


def _escaped_braces(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _is_stable(value: Any, form: str) -> bool:
    """Whether the text of a value is the same in every process, and identifies it."""
    kind = cast("Any", type(value))
    if kind in PLAIN or kind is float:
        return True
    if issubclass(kind, set | frozenset) or hasattr(kind, "get_secret_value"):
        return False
    if kind.__repr__ is object.__repr__ and kind.__str__ is object.__str__:
        return kind.__format__ is not object.__format__
    parts: Iterable[Any] = ()
    if issubclass(kind, Mapping):
        parts = [*value.keys(), *value.values()]
    elif issubclass(kind, list | tuple):
        parts = value
    return all(_is_stable(part, "{!r}") for part in parts) and not re.search(
        r" at 0x[0-9a-fA-F]+", form.format(value)
    )


_FORMATTED_AS_IS: Final = frozenset({str, int})
_FORMATTER: Final = string.Formatter()
