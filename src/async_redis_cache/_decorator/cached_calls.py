"""What a call of a cached function is known by: its key, its tags, and the type of its result."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, Literal

from async_redis_cache._common.options import MOST_TAGS

from .argument_text import PLAIN, plain_text, receiver_text, text_of
from .identity import UnstableError, name_of_function
from .key_template import Template
from .uncacheable import annotated_result, refuse_by_annotations

__all__ = ["Calls", "LongKeys"]

LongKeys = Literal["raise", "hash"]

_LONGEST_ARGUMENTS: Final = 200
"""Bytes of the arguments in a key by default; what is longer is hashed."""
_LONGEST_NAME: Final = 240
_LONGEST_HEAD: Final = 60
_LONGEST_KEY: Final = 512
"""Bytes of a key that the cache takes."""
_HASHED: Final = 65
"""Characters of a mark and a hash."""
_UNTYPED: Final = object()


class Calls:
    """The calls of one function.

    Args:
        function: the function.
        key: a template over its arguments; None for its name and its arguments.
        tags: templates likewise.
        kind: the type of its results; None for what it is annotated as.
        long_keys: "hash" to hash a key or a tag that the cache would refuse.

    Attributes:
        name: that of the function, for errors.
        pattern: what two functions share that share their keys.
        names: of its parameters.
        signature: that of the function.
        takes_class: whether it looks like a class method, whose class comes first.
        has_tags: whether its results have tags.

    Raises:
        TypeError: the function has no name of its own, and no key is given; a template names what
            is no argument; an annotation shows that it cannot be cached.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        key: str | None,
        tags: Iterable[str],
        kind: Any,
        long_keys: LongKeys,
    ) -> None:
        if isinstance(tags, str):
            raise TypeError("several tags are taken, as a tuple")
        if long_keys not in {"raise", "hash"}:
            raise TypeError(f"long_keys is 'raise' or 'hash', not {long_keys!r}")
        self.name: str = _description(function)
        self.pattern: str = key if key is not None else self.name
        self._prefix = "" if key is not None else f"{_stable_name(function, self.name)}("
        try:
            # What wraps a partial as if it were its function has yet other parameters.
            self.signature: inspect.Signature = inspect.signature(
                function, follow_wrapped=not isinstance(function, partial)
            )
        except ValueError as error:
            raise TypeError(f"the parameters of {self.name} are not known: wrap it") from error
        self._function = function
        self._kind = kind
        parameters = self.signature.parameters.values()
        self.names: tuple[str, ...] = tuple(self.signature.parameters)
        # Of "shop.Shop.make", that is ".Shop"; of a function in no class it is "", or "...<locals>".
        parent = self.name.rpartition(".")[0].removeprefix(
            getattr(function, "__module__", None) or ""
        )
        self._is_method = parent != "" and not parent.endswith(">")
        self.takes_class: bool = self._is_method and self.names[:1] == ("cls",)
        self._is_simple = all(
            parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters
        )
        self._whole = len(self.names) if self._is_simple else -1
        """How many arguments, none of them named, stand in the places of the parameters."""
        self._defaults = {
            parameter.name: parameter.default
            for parameter in parameters
            if parameter.default is not parameter.empty
        }
        self._hashes_long = long_keys == "hash"
        self._template = (
            None if key is None else Template(key, self.names, f"the key of {self.name}")
        )
        # Each once, as they are stored.
        self._tags = tuple(
            Template(tag, self.names, f"a tag of {self.name}") for tag in dict.fromkeys(tags)
        )
        if len(self._tags) > MOST_TAGS:
            raise TypeError(f"{MOST_TAGS} tags are taken, and {self.name} has {len(self._tags)}")
        self.has_tags: bool = bool(self._tags)
        refuse_by_annotations(function, self.name, is_keyed=key is not None)

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The key of a call with these arguments.

        Raises:
            TypeError: they are none for this function, or one has no text for a key.
        """
        values: Sequence[Any] = args
        if kwargs or len(args) != self._whole:
            values = self._values(args, kwargs)
        if self._template is not None:
            return self._filled(self._template, values)
        for value in values:
            if type(value) not in PLAIN:
                encoded = self._text(values)
                break
        else:
            try:
                # Without its brackets, which become those of the call.
                encoded = plain_text(values)[1:-1]
            except (ValueError, OverflowError):
                encoded = self._text(values)
        text = encoded.decode()
        if len(encoded) > _LONGEST_ARGUMENTS or not text.isprintable():
            text = f"#{hashlib.sha256(encoded).hexdigest()}"
        return f"{self._prefix}{text})"

    def tags(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, ...]:
        """The tags of the result of a call with these arguments."""
        values = self._values(args, kwargs)
        return tuple(self._filled(tag, values) for tag in self._tags)

    def kind(self) -> Any:
        """The type that results are validated as: the one given, or that of the annotation."""
        if self._kind is None:
            # Only now: what an annotation names may come after the function.
            annotated = annotated_result(self._function, self.name)
            self._kind = _UNTYPED if annotated is Any or annotated is type(None) else annotated
        return None if self._kind is _UNTYPED else self._kind

    def _values(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """A value for each parameter."""
        names = self.names
        if (
            self._is_simple
            and len(args) <= len(names)
            and kwargs.keys().isdisjoint(names[: len(args)])
        ):
            given = {**self._defaults, **dict(zip(names, args, strict=False)), **kwargs}
            if given.keys() == self.signature.parameters.keys():
                return [given[name] for name in names]
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        # `bind` takes a positional-only argument by its name, where there are other keywords.
        for name in names:
            if name not in bound.arguments:
                raise TypeError(f"missing a required argument: {name!r}")
        return [bound.arguments[name] for name in names]

    def _text(self, values: Sequence[Any]) -> bytes:
        """The values as they stand in a key, one by one."""
        texts: list[str] = []
        if self._is_method and values:
            texts.append(self._part(receiver_text, 0, values[0]))
            rest = values[1:]
            if rest and PLAIN.issuperset(map(type, rest)):
                # As in most methods. Faster at once than one by one.
                try:
                    return f"{texts[0]},".encode() + plain_text(rest)[1:-1]
                except (ValueError, OverflowError):
                    pass  # Text or an integer that only `text_of` knows.
        texts += [
            self._part(text_of, place, values[place]) for place in range(len(texts), len(values))
        ]
        return ",".join(texts).encode()

    def _part(self, text: Callable[[Any], str], place: int, value: Any) -> str:
        try:
            return text(value)
        except (UnstableError, RecursionError) as error:
            raise TypeError(
                f"the argument {self.names[place]!r} of {self.name} cannot be in a key: {error}; give "
                "key=, or its class a method __cache_key__"
            ) from error

    def _filled(self, template: Template, values: Sequence[Any]) -> str:
        """A key or a tag, hashed if the cache would refuse it and hashes are asked for."""
        text = template.fill(values)
        if not self._hashes_long:
            return text
        encoded = text.encode(errors="surrogatepass")
        # What looks hashed is hashed, too: a caller may have made it up.
        if (
            0 < len(encoded) <= _LONGEST_KEY
            and text.isprintable()
            and text[-_HASHED : -_HASHED + 1] != "#"
        ):
            return text
        head = template.head[:_LONGEST_HEAD]
        head = head if head.isprintable() else ""
        return f"{head}#{hashlib.sha256(encoded).hexdigest()}"


def _description(function: Any) -> str:
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return f"{module}.{name}" if module and name else f"a {type(function).__qualname__}"


def _stable_name(function: Callable[..., Any], description: str) -> str:
    """The name of a function in its keys, shortened if need be.

    Raises:
        TypeError: it has none.
    """
    try:
        name = name_of_function(function)
    except UnstableError as error:
        raise TypeError(f"{description} needs key=: {error}") from error
    if len(name.encode()) > _LONGEST_NAME:
        name = f"{name[:_LONGEST_HEAD]}#{hashlib.sha256(name.encode()).hexdigest()}"
    return name
