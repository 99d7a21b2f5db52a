"""What a call of a cached function is known by: its key, and the type of its result."""

from __future__ import annotations

import hashlib
import inspect
import string
from collections.abc import Callable, Iterable, Sequence
from types import FunctionType
from typing import Any, Final, get_type_hints

import msgspec

__all__ = ["Calls"]

_LONGEST_KEY: Final = 200
"""Bytes of the arguments in a key that was not given; what is longer is hashed."""
_RECEIVERS: Final = {"self", "cls"}
_UNTYPED: Final = object()
_encode: Final = msgspec.json.Encoder(order="deterministic").encode


class Calls:
    """The calls of one function.

    Args:
        function: whose.
        key: a template over its arguments; None for its name and its arguments.
        tags: templates likewise.
        kind: what its results are validated as; None for what it is annotated as.

    Raises:
        TypeError: a template names what is no argument; the tags are no templates.
    """

    def __init__(
        self, function: Callable[..., Any], key: str | None, tags: Iterable[str], kind: Any
    ) -> None:
        if isinstance(tags, str):
            raise TypeError("several tags are taken, as a tuple")
        self.signature = inspect.signature(function)
        self._function = function
        self._kind = kind
        self._template = key
        parameters = self.signature.parameters.values()
        self.names = tuple(self.signature.parameters)
        self._is_simple = all(
            parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters
        )
        self._whole = len(self.names) if self._is_simple else -1
        """How many arguments, none of them named, stand in the places of the parameters."""
        # The receiver of a method has no text of its own that other processes would agree on.
        self._left_out = len({*self.names[:1]} & _RECEIVERS)
        self.name = f"{function.__module__}.{function.__qualname__}"
        # The template over positions, for calls that name nothing: that is the faster way.
        self._by_position = None if key is None else self._checked("key", key).format
        self._tags = tuple(tags)
        self.has_tags = bool(self._tags)
        for tag in self._tags:
            self._checked("tags", tag)

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The key of a call with these arguments."""
        values: Sequence[Any] = args
        if kwargs or len(args) != self._whole:
            given = self._arguments(args, kwargs)
            if self._template is not None:
                return self._template.format_map(given)
            values = [given[name] for name in self.names]
        elif self._by_position is not None:
            return self._by_position(*args)
        try:
            # With its brackets, which become those of the call.
            encoded = _encode(values[1:] if self._left_out else values)
        except (TypeError, ValueError, OverflowError) as error:
            raise TypeError(f"the arguments of {self.name} are no key: give key=") from error
        text = encoded.decode()
        if len(encoded) > _LONGEST_KEY or not text.isprintable():
            text = f"[{hashlib.sha256(encoded).hexdigest()}]"
        return f"{self.name}({text[1:-1]})"

    def tags(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, ...]:
        """The tags of the result of a call with these arguments."""
        given = self._arguments(args, kwargs)
        return tuple(tag.format_map(given) for tag in self._tags)

    def _checked(self, what: str, template: str) -> str:
        return _by_position(template, self.names, f"the {what} of {self.name}")

    def kind(self) -> Any:
        """What the value is validated as: as was said, otherwise as the function is annotated."""
        if self._kind is None:
            # Only now: what an annotation names may come after the function.
            annotated = _annotated(self._function, self.name)
            self._kind = _UNTYPED if annotated is Any or annotated is type(None) else annotated
        return None if self._kind is _UNTYPED else self._kind

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        if self._is_simple and len(args) + len(kwargs) == len(self.names):
            given = {**dict(zip(self.names, args, strict=False)), **kwargs}
            if given.keys() == self.signature.parameters.keys():
                return given
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments


def _annotated(function: Callable[..., Any], name: str) -> Any:
    """What the function gives, as it is annotated; nothing else of its annotations has to exist.

    Raises:
        TypeError: that cannot be found.
    """
    holder = FunctionType((lambda: None).__code__, inspect.unwrap(function).__globals__)
    holder.__annotations__ = {"return": function.__annotations__.get("return", Any)}
    try:
        return get_type_hints(holder, include_extras=True)["return"]
    except NameError as error:
        raise TypeError(
            f"what {name} gives cannot be found by its annotation; give type="
        ) from error


def _by_position(template: str, names: tuple[str, ...], what: str) -> str:
    """The template, with the positions of the arguments that it names in place of their names.

    Raises:
        TypeError: it names what is no argument.
    """
    parts: list[str] = []
    for text, field, form, conversion in string.Formatter().parse(template):
        parts.append(text.replace("{", "{{").replace("}", "}}"))
        if field is None:
            continue
        # "user.id" and "row[id]" are of the arguments "user" and "row".
        name = field.replace("[", ".").partition(".")[0]
        if name not in names:
            raise TypeError(f"{what} names {field!r}, which is none of its arguments")
        place = f"{names.index(name)}{field[len(name) :]}"
        convert = f"!{conversion}" if conversion else ""
        parts.append(f"{{{place}{convert}{f':{form}' if form else ''}}}")
    return "".join(parts)
