"""Keys and tags in a user's words: templates over the arguments of a function."""

from __future__ import annotations

import operator
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self, cast

from async_redis_cache._common.options import CONTROL

from .argument_text import PLAIN

__all__ = ["Template"]


class _Field(NamedTuple):
    """A field of a template.

    Attributes:
        name: as it stands in the template.
        place: of the argument that it names.
        path: from that argument to what is written; None for the argument itself.
        form: writes it: "{!r:>8}".
        stop: a character of the text behind the field; none behind the last one.
    """

    name: str
    place: int
    path: Callable[[Any], Any] | None
    form: str
    stop: str = ""


class Template:
    """A template as for `str.format`, over the arguments of a function by their names.

    It gives what `str.format` gives, with one exception. Where a value holds the character that
    ends its field, that character and each percent sign become %XX: otherwise "{}:{}" would be the
    same for ("a:b", "c") and ("a", "b:c"). What stands in the last field stays as it is.

    Args:
        text: the template.
        names: those of the arguments, in their order.
        what: what it is, for errors.

    Attributes:
        head: the text before the first field.

    Raises:
        TypeError: it names what is no argument; nothing tells two of its fields apart; it is empty,
            too long or holds control characters, so the cache would refuse whatever it gives.
        ValueError: it is no template, such as "{user.}" or "{user!x}".
    """

    def __init__(self, text: str, names: Sequence[str], what: str) -> None:
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"{what} takes text, not a {type(text).__name__}")
        self._what = what
        fields, self._texts = _parsed(text, names, what)
        self._fields = [
            field._replace(stop=_stop(between, what))
            for field, between in zip(fields, self._texts[1:-1], strict=False)
        ] + fields[-1:]
        self.head = self._texts[0]
        stops = {field.stop for field in self._fields if field.stop}
        # What stands in a key more often than in the template came with a value.
        literal = "".join(self._texts)
        if not text or len(literal.encode()) > _LONGEST or CONTROL.search(literal):
            raise TypeError(f"{what} is text of 1 to {_LONGEST} bytes without control characters")
        self._counts = [(stop, literal.count(stop)) for stop in stops]
        self._is_whole = [(field.place, field.path) for field in fields] == [
            (place, None) for place in range(len(names))
        ]
        self._only = -1
        """The place of the argument that is the one field as it is; -1 if there is no such field."""
        if len(fields) == 1 and fields[0].path is None and fields[0].form == "{}":
            self._only = fields[0].place
        forms = [*(field.form for field in fields), ""]
        self._format = "".join(
            _escaped(between) + form for between, form in zip(self._texts, forms, strict=True)
        ).format

    def fill(self, arguments: Sequence[Any]) -> str:
        """The template with these arguments, of which there is one for each name.

        Raises:
            TypeError: one has no text that another process would agree on.
        """
        if self._only >= 0:
            # Most templates and arguments are so, and `format` would give the same.
            value = arguments[self._only]
            if type(value) in _AS_THEY_ARE:
                return f"{self.head}{value}{self._texts[1]}"
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
                return self._told_apart(values)
            for stop, count in self._counts:
                if text.count(stop) != count:
                    return self._told_apart(values)
        return text

    def _check(self, values: Sequence[Any]) -> None:
        for field, value in zip(self._fields, values, strict=True):
            try:
                is_stable = _is_stable(value, field.form)
            except RecursionError:
                is_stable = False
            if not is_stable:
                raise TypeError(
                    f"{self._what} cannot hold {{{field.name}}}: a {type(value).__qualname__} has no "
                    "text that is the same in each process"
                )

    def _told_apart(self, values: Sequence[Any]) -> str:
        parts = [self.head]
        for field, value, between in zip(self._fields, values, self._texts[1:], strict=True):
            text = field.form.format(value)
            if field.stop:
                text = text.replace("%", _percent("%")).replace(field.stop, _percent(field.stop))
            parts += text, between
        return "".join(parts)


def _parsed(text: str, names: Sequence[str], what: str) -> tuple[list[_Field], list[str]]:
    """The fields of a template, and the texts before, between and behind them."""
    fields: list[_Field] = []
    texts = [""]
    for literal, name, spec, conversion in string.Formatter().parse(text):
        texts[-1] += literal
        if name is None:
            continue
        # "user.id" and "row[id]" are of the arguments "user" and "row".
        first = name.replace("[", ".").partition(".")[0]
        if first not in names:
            raise TypeError(f"{what} names {name!r}, which is none of its arguments")
        if spec and "{" in spec:
            raise TypeError(f"{what} has a field within {name!r}")
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

    # Now, so that it is no surprise for the first call.
    follow(_Anything())
    return follow


class _Anything:
    """Has each attribute and each item."""

    def __getattr__(self, _: str) -> Self:
        return self

    def __getitem__(self, _: object) -> Self:
        return self


def _stop(between: str, what: str) -> str:
    """A character between two fields that is not in %XX, as which it is written within a value."""
    found = re.search(r"[^%0-9A-F]", between)
    if found is None:
        raise TypeError(f"{what} has fields with nothing like a colon between them")
    return found[0]


def _percent(sign: str) -> str:
    return "".join(f"%{byte:02X}" for byte in sign.encode())


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _is_stable(value: Any, form: str) -> bool:
    """Whether the text of a value is the same in each process, and not that of others."""
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


_AS_THEY_ARE: Final = frozenset({str, int})
_LONGEST: Final = 512
_FORMATTER: Final = string.Formatter()
