"""Whether an object comes back equal from what a serializer makes of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, cast, get_type_hints

from .equality import difference, is_equal
from .json_checks import NotSerializableError, exact, field_names, parts_of, refuse_damage
from .pydantic_models import dumped

__all__ = ["Objects"]

_MOST_TYPES: Final = 256
_DEEPEST: Final = 100
_PLACE: Final = re.compile(r"at `\$((?:\.\w+|\[\d+\]|\[\.\.\.\])+)`$")
"""Where msgspec could not validate; it does not name keys of dicts either."""


class Objects:
    """Checks objects: dataclasses, attrs classes, Structs and pydantic models.

    An object whose class cannot be validated, or is generic without its parameters, is not checked as a
    whole: only its parts are.

    Args:
        encode: what makes bytes of an object. It checks models itself.
        decoder_of: what makes a decoder for a type; it raises for types that cannot be validated.
        is_json: whether bytes and what is not finite are damage.
    """

    def __init__(
        self,
        encode: Callable[[Any], bytes],
        decoder_of: Callable[[Any], Callable[[bytes], Any]],
        *,
        is_json: bool,
    ) -> None:
        self._encode = encode
        self._decoder_of = decoder_of
        self._is_json = is_json
        self._decoders: dict[Any, Callable[[bytes], Any] | None] = {}

    def refuse(self, value: Any) -> None:
        """Refuse what would be damaged in a value that could be encoded.

        Raises:
            RefusedError: naming the field.
        """
        kind = cast("Any", type(value))
        if kind is list and self._are_faithful(value):
            return
        refuse_damage(value, self._is_faithful, is_json=self._is_json)

    def _are_faithful(self, values: list[Any]) -> bool:
        """Whether a list of objects of one class comes back equal; asked at once, for a third of the time."""
        kinds = {*map(type, values)}
        kind: Any = kinds.pop() if len(kinds) == 1 else None
        if hasattr(kind, "model_dump"):
            return True
        if not field_names(kind) or self._decoder(kind) is None:
            return False
        decode = self._decoder(list[kind])
        try:
            return decode is not None and decode(self._encode(values)) == values
        except Exception:  # noqa: BLE001  they are looked at one by one
            return False

    def explain(self, value: Any, error: Exception) -> NotSerializableError:
        """The error with its place in the value, and the name of the value's class in front."""
        place = ""
        if not isinstance(error, NotSerializableError):
            # An encoder's, of a lone surrogate or a number that is too large. It may quote the value.
            place = "" if isinstance(error, RecursionError) else self._place_of_failure(value)
            error = NotSerializableError(type(error).__name__, place)
        # Where it was raised while the value was encoded, it knows its place in a part alone.
        if not place:
            try:
                refuse_damage(value, self._is_known, is_json=self._is_json)
            except NotSerializableError as placed:
                error = placed
            except Exception:  # noqa: BLE001, S110  the same again
                pass
        kind = cast("Any", type(value))
        if not error.path.startswith("[") and field_names(kind):
            error.path = f"{kind.__name__}{error.path}"
        return error

    def _place_of_failure(self, value: Any) -> str:
        """Where the first part stands that cannot be encoded by itself either."""
        place = ""
        for _ in range(_DEEPEST):
            for step, part in parts_of(value):
                try:
                    self._encode(part)
                except Exception:  # noqa: BLE001  the same again, of this part alone
                    place, value = f"{place}{step}", part
                    break
            else:
                break
        return place

    def _is_faithful(self, value: Any) -> bool:
        kind = cast("Any", type(value))
        try:
            decode = self._decoders[kind]
        except KeyError:
            if hasattr(kind, "model_dump") or not field_names(kind):
                return True
            decode = self._decoder(kind)
        if decode is None:
            return False
        try:
            back = decode(self._encode(value))
        except Exception as error:  # noqa: BLE001  a class may raise anything when it is made
            found = _PLACE.search(str(error))
            place = found[1] if found else self._place_of_unmade(value)
        else:
            place = None if is_equal(value, back) else difference(value, back)
        if place is None:
            return True
        # What is wrong with a part says more.
        refuse_damage(value, _ask_parts, is_json=self._is_json)
        raise NotSerializableError("would not come back equal", place)

    def _place_of_unmade(self, value: Any) -> str:
        """The first field of which a value of its type cannot be made by itself either."""
        kind = cast("Any", type(value))
        name = ""
        try:
            hints = get_type_hints(kind, include_extras=True)
            for name in field_names(kind):
                decode = self._decoder_of(hints.get(name, Any))
                decode(self._encode(getattr(value, name)))
        except Exception:  # noqa: BLE001  the same again, of this field alone
            return f".{name}"
        return ""

    def _is_known(self, value: Any) -> bool:
        if hasattr(value, "model_dump"):
            dumped(value, is_json=self._is_json)
            return True
        kind = cast("Any", type(value))
        if field_names(kind):
            return False
        try:
            self._encode(value)
        except NotSerializableError:
            exact(value)
        return True

    def _decoder(self, kind: Any) -> Callable[[bytes], Any] | None:
        if kind in self._decoders:
            return self._decoders[kind]
        decoder = None
        if not getattr(kind, "__parameters__", ()):
            try:
                decoder = self._decoder_of(kind)
            except Exception:  # noqa: BLE001  an annotation may name what does not exist
                decoder = None
        if len(self._decoders) >= _MOST_TYPES:
            self._decoders.clear()
        self._decoders[kind] = decoder
        return decoder


def _ask_parts(value: Any) -> bool:
    return hasattr(value, "model_dump")
