"""Names of functions and classes that are the same in every process, for keys."""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import BuiltinFunctionType, CellType, FunctionType, ModuleType
from typing import Any, Final, ParamSpec, TypeVar, TypeVarTuple

__all__ = ["UnstableError", "class_path", "is_importable", "name_of_class", "name_of_function"]


class UnstableError(TypeError):
    """A function, class or value has no name or text that is the same in every process."""


def name_of_function(function: Callable[..., Any]) -> str:
    """Return the name of a function for keys.

    The name of a function that is defined inside another includes the line of its definition, because two with the
    same name may be defined there.

    Raises:
        UnstableError: other functions may have the same name, or the function captures variables.
    """
    inner: Any = inspect.unwrap(function)
    if isinstance(function, BuiltinFunctionType) and isinstance(function.__self__, ModuleType):
        return f"{function.__self__.__name__}.{function.__qualname__}"
    if not (isinstance(function, FunctionType) and isinstance(inner, FunctionType)):
        raise UnstableError(f"a {type(function).__name__} has no name of its own")
    if not _is_of_module(inner):
        raise UnstableError("it belongs to no module that another process could import")
    module = _real_module(inner.__module__, inner.__globals__)
    name = f"{module}.{inner.__qualname__}"
    if "<lambda>" in name:
        raise UnstableError("a lambda has no name of its own")
    if "<locals>" in name:
        captured = next(_captured(function), None)
        if captured is not None:
            raise UnstableError(
                f"{inner.__qualname__} captures {captured!r}, so each time it is defined it is a different "
                "function"
            )
        name = f"{name}:{inner.__code__.co_firstlineno}"
    _claim_name(name, function)
    return name


def name_of_class(kind: type) -> str:
    """Return the name of a class for keys.

    Raises:
        UnstableError: another class has the same name. Among classes that cannot be imported by their name, because
            a function creates them, the first one has it.
    """
    name = _CLASSES.get(kind)
    if name is None:
        name = class_path(kind)
        if not is_importable(kind):
            other = _import_by_name(kind)
            if isinstance(other, type) and class_path(other) == name:
                raise UnstableError(f"several classes are named {name}")
            first = _UNIMPORTABLE.setdefault(name, weakref.ref(kind))
            if first() is not kind:
                raise UnstableError(f"several classes are named {name}")
        _CLASSES[kind] = name
    return name


def class_path(kind: type) -> str:
    """Return the module and qualified name of a class."""
    module = sys.modules.get(kind.__module__)
    return f"{_real_module(kind.__module__, vars(module) if module else {})}.{kind.__qualname__}"


def is_importable(kind: type) -> bool:
    """Whether importing the name of a class gives this class."""
    return _import_by_name(kind) is kind


def _import_by_name(kind: type) -> Any:
    """Return what is found in the imported modules under the name of a class; None if nothing is."""
    found: Any = sys.modules.get(kind.__module__)
    for part in kind.__qualname__.split("."):
        found = getattr(found, part, None)
    return found


def _is_of_module(function: FunctionType) -> bool:
    """Whether a function belongs to a module that was imported, or that was run from its file."""
    namespace = function.__globals__
    module = sys.modules.get(namespace.get("__name__", ""))
    is_imported = namespace is getattr(module, "__dict__", None)
    return is_imported or namespace.get("__file__") == function.__code__.co_filename


def _real_module(name: str, namespace: dict[str, Any]) -> str:
    """Return the name by which a module can be imported, also if it runs as the program."""
    if name not in {"__main__", "__mp_main__"}:
        return name
    spec = namespace.get("__spec__")
    if spec is not None and spec.name not in {"__main__", "__mp_main__"}:
        return str(spec.name)
    path = namespace.get("__file__")
    if not path:
        return "__main__"
    path = Path(path)
    packages: list[str] = []
    for directory in path.parents:
        if not (directory / "__init__.py").is_file():
            break
        packages.insert(0, directory.name)
    return ".".join([*packages, path.stem])


def _captured(function: Callable[..., Any]) -> Iterator[str]:
    """Yield the variables that a function and its wrappers capture, except for the wrapped function itself."""
    for layer in _layers(function):
        wrapped = getattr(layer, "__wrapped__", None)
        # Compared by class: a proxy of a function has the function's `__code__` too.
        if type(layer) is not FunctionType:
            yield type(layer).__name__
            continue
        code = layer.__code__
        for name, cell in zip(code.co_freevars, layer.__closure__ or (), strict=True):
            content = _content(cell)
            # The class of a method that calls super(), and the type parameters of a generic function.
            is_harmless = name == "__class__" or isinstance(
                content, TypeVar | ParamSpec | TypeVarTuple
            )
            if not is_harmless and content is not wrapped:
                yield name


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _EMPTY


def _layers(function: Any) -> Iterator[Any]:
    """Yield a function, the function that it wraps, and so on to the innermost."""
    while function is not None:
        yield function
        function = getattr(function, "__wrapped__", None)


def _claim_name(name: str, function: FunctionType) -> None:
    """Register a name for a function.

    Raises:
        UnstableError: another function, which may return different results, has this name. A function of a module
            that was reloaded is the same function.
    """
    *_, inner = layers = list(_layers(function))
    spec = inner.__globals__.get("__spec__")
    other, other_spec = _CLAIMED.get(name, (function, spec))
    *_, other_inner = other_layers = list(_layers(other))
    code, other_code = inner.__code__, other_inner.__code__
    if other is function:
        clashes = False
    elif inner is other_inner or code is other_code:
        # Wrapped in two ways, or defined again: in a loop, or by each call of a function. Functions that
        # capture nothing are the same, unless a loop at module level changes their globals.
        clashes = (
            [getattr(layer, "__code__", None) for layer in layers]
            != [getattr(layer, "__code__", None) for layer in other_layers]
            or any(_captured(function))
            or any(_captured(other))
            or (inner is not other_inner and "<locals>" not in inner.__qualname__)
        )
    elif inner.__globals__ is other_inner.__globals__ and spec is other_spec:
        is_read_again = (
            code.co_firstlineno == other_code.co_firstlineno
            and code.co_filename == other_code.co_filename
            and not code.co_filename.startswith("<")
        )
        clashes = not (is_read_again or _is_interactive(inner) or code == other_code)
    else:
        clashes = Path(code.co_filename).resolve() != Path(other_code.co_filename).resolve()
    if clashes:
        raise UnstableError(f"several functions are named {name}")
    _CLAIMED[name] = function, spec


def _is_interactive(function: FunctionType) -> bool:
    """Whether a function was defined in an interactive session, in which functions are redefined."""
    namespace = function.__globals__
    return namespace.get("__name__") == "__main__" and "__file__" not in namespace


_EMPTY: Final = object()
_CLAIMED: Final[dict[str, tuple[FunctionType, Any]]] = {}
"""Functions by name. Kept for ever: the results of a deleted function may still be in the cache."""
_CLASSES: Final[weakref.WeakKeyDictionary[type, str]] = weakref.WeakKeyDictionary()
_UNIMPORTABLE: Final[dict[str, weakref.ref[type]]] = {}
