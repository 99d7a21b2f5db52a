"""Refuse results that cannot be cached and arguments that cannot be part of a key, by annotation and by class.

No framework is imported: its classes are recognised by the names of their package and class.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from types import FunctionType
from typing import Any, Final, cast, get_args, get_type_hints

from async_redis_cache._common.annotations import annotations_of

__all__ = ["annotated_result", "refuse_by_annotations", "refuse_result"]


def annotated_result(function: Callable[..., Any], name: str) -> Any:
    """Return the return annotation of a function. Names in its other annotations need not be defined yet.

    Raises:
        TypeError: the annotation cannot be resolved.
    """
    try:
        return _annotation(_declared(function), "return")
    except NameError as error:
        raise TypeError(
            f"the return annotation of {name} cannot be resolved: {error}. "
            "Import the name outside of `if TYPE_CHECKING:`, or pass type="
        ) from error


def refuse_by_annotations(function: Callable[..., Any], name: str, *, is_keyed: bool) -> None:
    """Refuse a function with a response, a generator or a request in its annotations.

    An annotation that cannot be resolved yet is skipped; the first call resolves it.

    Args:
        function: the function.
        name: its name, for error messages.
        is_keyed: whether the decorator was given `key`, so that arguments are not checked.

    Raises:
        TypeError: the result cannot be stored, or an argument cannot be part of a key.
    """
    declared = _declared(function)
    try:
        parameters = list(annotations_of(declared))
    except NameError:
        # From Python 3.14 on, all annotations are evaluated together.
        return
    for parameter in parameters:
        if parameter != "return" and is_keyed:
            continue
        try:
            annotation = _annotation(declared, parameter)
        except Exception:  # noqa: BLE001, S112  evaluating annotations may raise anything
            continue
        for kind in _classes_in(annotation):
            if parameter == "return":
                _refuse_result(kind, name)
            elif _is_of(kind, _CONNECTIONS):
                raise TypeError(
                    f"the argument {parameter!r} of {name} is a {kind.__name__}, a different object in "
                    "each call: pass what the result depends on instead, such as its path, or name "
                    "that in key="
                )


def refuse_result(result: object, name: str) -> None:
    """Refuse a result that can be read only once, or that is a response.

    Raises:
        TypeError: it is a generator or another iterator, an awaitable, a context manager made from a generator, or a
            response of a web framework.
    """
    _refuse_result(type(result), name)


def _refuse_result(kind: Any, name: str) -> None:
    if issubclass(kind, _READ_ONCE):
        problem = "can be read only once: return a list"
    elif issubclass(kind, Awaitable):
        problem = "can be awaited only once: await it, and return its result"
    elif _is_of(kind, _CONTEXT_MANAGERS):
        problem = "can be entered only once: cache the data that it is made from"
    elif _is_of(kind, _RESPONSES):
        problem = "cannot be cached: return its data, and create the response in the handler"
    else:
        return
    raise TypeError(f"{name} returns a {kind.__name__}, which {problem}")


def _is_of(kind: type, known: frozenset[tuple[str, str]]) -> bool:
    return any((base.__module__.partition(".")[0], base.__name__) in known for base in kind.__mro__)


def _declared(function: Any) -> Any:
    """Return the function that has the annotations."""
    while isinstance(function, partial):
        function = cast("Any", function).func
    has_own = inspect.isroutine(function) or isinstance(function, type)
    return function if has_own or hasattr(function, "__wrapped__") else type(function).__call__


def _annotation(function: Any, name: str) -> Any:
    inner = inspect.unwrap(function)
    holder = FunctionType((lambda: None).__code__, getattr(inner, "__globals__", {}))
    annotations = annotations_of(function)
    holder.__annotations__ = {name: annotations[name]} if name in annotations else {}
    parameters = _type_parameters(inner)
    return get_type_hints(holder, None, parameters, include_extras=True).get(name, Any)


def _type_parameters(function: Any) -> dict[str, Any] | None:
    """Return the type parameters of a function and of the classes around it, by name; None if it has none.

    Annotations that are text, as by `from __future__ import annotations`, name them, and they are no globals.
    """
    found: dict[str, Any] = {}
    scope: Any = None
    names = getattr(function, "__qualname__", "").split(".")[:-1]
    for depth, name in enumerate(names):
        variables = vars(scope) if depth else getattr(function, "__globals__", {})
        scope = variables.get(name)
        if not isinstance(scope, type):
            break
        found.update(_parameters_of(scope))
    found.update(_parameters_of(function))
    return found or None


def _parameters_of(generic: Any) -> dict[str, Any]:
    return {parameter.__name__: parameter for parameter in getattr(generic, "__type_params__", ())}


def _classes_in(annotation: Any) -> Iterator[type]:
    """Yield the classes in an annotation, those in unions and type parameters included."""
    kind = getattr(annotation, "__origin__", annotation)
    if isinstance(kind, type):
        yield kind
    parts = get_args(annotation)
    # Only the first part of an Annotated is a type.
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
