"""The key, the tags and the result type of a call of a cached function."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

from async_redis_cache._common.annotations import signature_of
from async_redis_cache._common.key_rules import KEY_BYTES, MOST_TAGS, LongKeys

from .argument_text import PLAIN, plain_text, receiver_text, text_of
from .key_template import Template
from .stable_names import UnstableError, name_of_function
from .uncacheable import annotated_result, refuse_by_annotations

__all__ = ["Calls", "describe"]

_MAX_ARGUMENTS: Final = 200
"""In bytes, in a key without a template: longer arguments are hashed."""
_MAX_NAME: Final = 240
_MAX_PREFIX: Final = 60
_HASH_LENGTH: Final = 65
"""Characters of "#" and a hash."""
_UNTYPED: Final = object()


class Calls:
    """Derive keys, tags and the result type from the calls of one function.

    Args:
        function: the function.
        key: a template over its arguments; None: its name and its arguments.
        tags: templates over its arguments.
        kind: the type of its results; None: its return annotation.
        long_keys: "hash": hash a key or tag that the cache would refuse.

    Attributes:
        name: the name of the function, for error messages.
        pattern: two functions with the same pattern share their keys.
        names: the names of its parameters.
        signature: the signature of the function.
        takes_class: whether it appears to be a class method, whose first argument is the class.
        has_tags: whether its results have tags.

    Raises:
        TypeError: the function has no name of its own, and no key is given; a template names what is not a
            parameter; the annotations show that the function cannot be cached.
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
            raise TypeError("tags must be a collection of str, such as a tuple, not str")
        if long_keys not in {"raise", "hash"}:
            raise TypeError(f"long_keys must be 'raise' or 'hash', not {long_keys!r}")
        self.name: str = describe(function)
        self.pattern: str = key if key is not None else self.name
        self._name_prefix = "" if key is not None else f"{_stable_name(function, self.name)}("
        try:
            # A partial has other parameters than a function that it claims to wrap.
            self.signature: inspect.Signature = signature_of(
                function, follow_wrapped=not isinstance(function, partial)
            )
        except ValueError as error:
            raise TypeError(
                f"the signature of {self.name} cannot be determined: decorate a function that calls it"
            ) from error
        self._function = function
        self._kind = kind
        parameters = self.signature.parameters.values()
        self.names: tuple[str, ...] = tuple(self.signature.parameters)
        # ".Shop" for "shop.Shop.make"; "" or "...<locals>" for a function that is not in a class.
        parent = self.name.rpartition(".")[0].removeprefix(
            getattr(function, "__module__", None) or ""
        )
        self._is_method = parent != "" and not parent.endswith(">")
        self.takes_class: bool = self._is_method and self.names[:1] == ("cls",)
        self._is_simple = all(
            parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters
        )
        self._direct_count = len(self.names) if self._is_simple else -1
        """The number of positional arguments that needs no binding to parameters; -1 if there is none."""
        self._defaults = {
            parameter.name: parameter.default
            for parameter in parameters
            if parameter.default is not parameter.empty
        }
        self._hashes_long = long_keys == "hash"
        self._template = (
            None if key is None else Template(key, self.names, f"the key of {self.name}")
        )
        # Without duplicates, as they are stored.
        self._tags = tuple(
            Template(tag, self.names, f"a tag of {self.name}") for tag in dict.fromkeys(tags)
        )
        if len(self._tags) > MOST_TAGS:
            raise TypeError(
                f"at most {MOST_TAGS} tags are allowed, and {self.name} has {len(self._tags)}"
            )
        self.has_tags: bool = bool(self._tags)
        refuse_by_annotations(function, self.name, is_keyed=key is not None)

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Return the key of a call with these arguments.

        Raises:
            TypeError: the function does not take these arguments, or one has no stable text.
        """
        values: Sequence[Any] = args
        if kwargs or len(args) != self._direct_count:
            values = self._values(args, kwargs)
        if self._template is not None:
            return self._filled(self._template, values)
        for value in values:
            if type(value) not in PLAIN:
                encoded = self._text(values)
                break
        else:
            try:
                # Without the JSON brackets; the parentheses of the call replace them.
                encoded = plain_text(values)[1:-1]
            except (ValueError, OverflowError):
                encoded = self._text(values)
        text = encoded.decode()
        if len(encoded) > _MAX_ARGUMENTS or not text.isprintable():
            text = f"#{hashlib.sha256(encoded).hexdigest()}"
        return f"{self._name_prefix}{text})"

    def tags(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, ...]:
        """Return the tags of the result of a call with these arguments."""
        values = self._values(args, kwargs)
        return tuple(self._filled(tag, values) for tag in self._tags)

    def kind(self) -> Any:
        """Return the type that results are validated as: the given one, or the return annotation; None for Any."""
        if self._kind is None:
            # Not earlier: the annotation may name a class that is defined after the function.
            annotated = annotated_result(self._function, self.name)
            self._kind = _UNTYPED if annotated is Any or annotated is type(None) else annotated
        return None if self._kind is _UNTYPED else self._kind

    def _values(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """Return one value for each parameter, defaults included."""
        names = self.names
        if (
            self._is_simple
            and len(args) <= len(names)
            and kwargs.keys().isdisjoint(names[: len(args)])
        ):
            arguments = {**self._defaults, **dict(zip(names, args, strict=False)), **kwargs}
            if arguments.keys() == self.signature.parameters.keys():
                return [arguments[name] for name in names]
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        # `bind` accepts a positional-only argument by name if the function takes `**kwargs`.
        for name in names:
            if name not in bound.arguments:
                raise TypeError(f"missing a required argument: {name!r}")
        return [bound.arguments[name] for name in names]

    def _text(self, values: Sequence[Any]) -> bytes:
        """Return the text of the values in a key."""
        texts: list[str] = []
        if self._is_method and values:
            texts.append(self._part(receiver_text, 0, values[0]))
            rest = values[1:]
            if rest and PLAIN.issuperset(map(type, rest)):
                # The common case of a method; encoding all at once is faster.
                try:
                    return f"{texts[0]},".encode() + plain_text(rest)[1:-1]
                except (ValueError, OverflowError):
                    pass  # Text or an integer that only `text_of` supports.
        texts += [
            self._part(text_of, place, values[place]) for place in range(len(texts), len(values))
        ]
        return ",".join(texts).encode()

    def _part(self, text: Callable[[Any], str], place: int, value: Any) -> str:
        try:
            return text(value)
        except (UnstableError, RecursionError) as error:
            raise TypeError(
                f"the argument {self.names[place]!r} of {self.name} cannot be part of a key: {error}; pass key=, "
                "or define a method __cache_key__ in its class"
            ) from error

    def _filled(self, template: Template, values: Sequence[Any]) -> str:
        """Fill a template, and hash the result if the cache would refuse it and `long_keys` is "hash"."""
        text = template.fill(values)
        if not self._hashes_long:
            return text
        encoded = text.encode(errors="surrogatepass")
        # A text that looks like a hash is hashed too: an argument may imitate one.
        if (
            0 < len(encoded) <= KEY_BYTES
            and text.isprintable()
            and text[-_HASH_LENGTH : -_HASH_LENGTH + 1] != "#"
        ):
            return text
        prefix = template.prefix[:_MAX_PREFIX]
        prefix = prefix if prefix.isprintable() else ""
        return f"{prefix}#{hashlib.sha256(encoded).hexdigest()}"


def describe(function: Any) -> str:
    """Return a function as error messages name it: `module.qualified_name`, or by its class."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return f"{module}.{name}" if module and name else f"a {type(function).__qualname__}"


def _stable_name(function: Callable[..., Any], description: str) -> str:
    """Return the name of a function for its keys; the end of a long one is hashed.

    Raises:
        TypeError: it has no name of its own.
    """
    try:
        name = name_of_function(function)
    except UnstableError as error:
        raise TypeError(f"{description} needs key=: {error}") from error
    if len(name.encode()) > _MAX_NAME:
        name = f"{name[:_MAX_PREFIX]}#{hashlib.sha256(name.encode()).hexdigest()}"
    return name
