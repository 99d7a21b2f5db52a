"""What cannot be cached or be part of a key, by the frameworks' classes and by annotations.

No framework is imported for it: classes are known by the name of their package and their own.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from types import FunctionType
from typing import Any, Final, cast, get_args, get_type_hints

__all__ = ["annotated_result", "refuse_by_annotations", "refuse_result"]


def annotated_result(function: Callable[..., Any], name: str) -> Any:
    """What a function returns, as it is annotated. Its other annotations need not exist yet.

    Raises:
        TypeError: it cannot be found.
    """
    try:
        return _annotation(_declared(function), "return")
    except NameError as error:
        raise TypeError(
            f"the annotation of what {name} returns names {error}; give type="
        ) from error


def refuse_by_annotations(function: Callable[..., Any], name: str, *, is_keyed: bool) -> None:
    """Refuse a function whose annotations show a response, a generator or a request.

    An annotation that cannot be read yet is left out: the first call finds what it means.

    Args:
        function: the function.
        name: its name, for errors.
        is_keyed: whether it has a key of its own, so that its arguments need not be in it.

    Raises:
        TypeError: it returns what cannot be stored, or takes what cannot be in a key.
    """
    declared = _declared(function)
    try:
        parameters = list(_annotations(declared))
    except NameError:
        # From Python 3.14 on, all of them are looked up at once.
        return
    for parameter in parameters:
        if parameter != "return" and is_keyed:
            continue
        try:
            annotation = _annotation(declared, parameter)
        except Exception:  # noqa: BLE001, S112  an annotation may hold anything
            continue
        for kind in _classes_in(annotation):
            if parameter == "return":
                _refuse_result(kind, name)
            elif _is_of(kind, _CONNECTIONS):
                raise TypeError(
                    f"the argument {parameter!r} of {name} is a {kind.__name__}, another object in "
                    "each call: pass what the result depends on instead, such as its path, or name "
                    "that in key="
                )


def refuse_result(result: object, name: str) -> None:
    """Refuse what a function has returned, if it can be read only once or only be sent.

    Raises:
        TypeError: it is a generator, another iterator, an awaitable, a context manager that a generator
            makes, or a response.
    """
    _refuse_result(type(result), name)


def _refuse_result(kind: Any, name: str) -> None:
    if issubclass(kind, _READ_ONCE):
        problem = "can be read only once: return a list"
    elif issubclass(kind, Awaitable):
        problem = "can be awaited only once: await it, and return what it gives"
    elif _is_of(kind, _CONTEXT_MANAGERS):
        problem = "can be entered only once: cache what it is made of"
    elif _is_of(kind, _RESPONSES):
        problem = "is no value: return its data, and make the response of that in the handler"
    else:
        return
    raise TypeError(f"{name} returns a {kind.__name__}, which {problem}")


def _is_of(kind: type, known: frozenset[tuple[str, str]]) -> bool:
    return any((base.__module__.partition(".")[0], base.__name__) in known for base in kind.__mro__)


def _declared(function: Any) -> Any:
    """The function that bears the annotations."""
    while isinstance(function, partial):
        function = cast("Any", function).func
    has_own = inspect.isroutine(function) or isinstance(function, type)
    return function if has_own or hasattr(function, "__wrapped__") else type(function).__call__


def _annotations(function: Any) -> dict[str, Any]:
    annotations: dict[str, Any] = getattr(function, "__annotations__", {})
    return annotations


def _annotation(function: Any, name: str) -> Any:
    inner = inspect.unwrap(function)
    holder = FunctionType((lambda: None).__code__, getattr(inner, "__globals__", {}))
    annotations = _annotations(function)
    holder.__annotations__ = {name: annotations[name]} if name in annotations else {}
    return get_type_hints(holder, include_extras=True).get(name, Any)


def _classes_in(annotation: Any) -> Iterator[type]:
    """The classes that an annotation names, in unions and as parameters of others, too."""
    kind = getattr(annotation, "__origin__", annotation)
    if isinstance(kind, type):
        yield kind
    parts = get_args(annotation)
    # Behind the type of an Annotated is what others know about it.
    for part in parts[:1] if hasattr(annotation, "__metadata__") else parts:
        yield from _classes_in(part)


_READ_ONCE: Final[tuple[type, ...]] = (Iterator, AsyncIterator)
_CONTEXT_MANAGERS: Final = frozenset(
    {("contextlib", "_GeneratorContextManager"), ("contextlib", "_AsyncGeneratorContextManager")}
)
_RESPONSES: Final = frozenset(
    {
        ("aiohttp", "StreamResponse"),
        ("django", "HttpResponseBase"),
        ("litestar", "Response"),
        ("quart", "Response"),
        ("sanic", "BaseHTTPResponse"),
        ("starlette", "Response"),
        ("werkzeug", "Response"),
    }
)
_CONNECTIONS: Final = _RESPONSES | {
    ("aiohttp", "BaseRequest"),
    ("django", "HttpRequest"),
    ("litestar", "ASGIConnection"),
    ("quart", "Request"),
    ("sanic", "Request"),
    ("sqlalchemy", "AsyncConnection"),
    ("sqlalchemy", "AsyncSession"),
    ("sqlalchemy", "Connection"),
    ("sqlalchemy", "Session"),
    ("starlette", "BackgroundTask"),
    ("starlette", "BackgroundTasks"),
    ("starlette", "HTTPConnection"),
    ("werkzeug", "Request"),
}
