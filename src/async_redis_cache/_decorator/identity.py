"""Names of functions and classes that mean the same in every process."""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import BuiltinFunctionType, CellType, FunctionType, ModuleType
from typing import Any, Final, ParamSpec, TypeVar, TypeVarTuple

__all__ = ["UnstableError", "class_path", "is_imported", "name_of_class", "name_of_function"]


class UnstableError(TypeError):
    """Something has no name or text that another process would agree on."""


def name_of_function(function: Callable[..., Any]) -> str:
    """The name that stands for a function in keys.

    A function that is defined inside another has the line of its definition in its name, since two
    of one name may stand there.

    Raises:
        UnstableError: other functions may have the same name, or the function captures variables.
    """
    inner: Any = inspect.unwrap(function)
    if isinstance(function, BuiltinFunctionType) and isinstance(function.__self__, ModuleType):
        return f"{function.__self__.__name__}.{function.__qualname__}"
    if not (isinstance(function, FunctionType) and isinstance(inner, FunctionType)):
        raise UnstableError(f"a {type(function).__name__} has no name of its own")
    if not _is_of_module(inner):
        raise UnstableError("it is defined in no module that another process could import")
    module = _real_module(inner.__module__, inner.__globals__)
    name = f"{module}.{inner.__qualname__}"
    if "<lambda>" in name:
        raise UnstableError("a lambda has no name of its own")
    if "<locals>" in name:
        captured = next(_captured(function), None)
        if captured is not None:
            raise UnstableError(
                f"{inner.__qualname__} captures {captured!r}, so each time it is defined it is another "
                "function"
            )
        name = f"{name}:{inner.__code__.co_firstlineno}"
    _claim(name, function)
    return name


def name_of_class(kind: type) -> str:
    """The name that stands for a class in keys.

    Raises:
        UnstableError: another class has that name, too. Of classes that cannot be imported by their
            name, since a function or a factory makes them, the first has it.
    """
    name = _CLASSES.get(kind)
    if name is None:
        name = class_path(kind)
        if not is_imported(kind):
            other = _found(kind)
            if isinstance(other, type) and class_path(other) == name:
                raise UnstableError(f"several classes are named {name}")
            first = _MADE.setdefault(name, weakref.ref(kind))
            if first() is not kind:
                raise UnstableError(f"several classes are named {name}")
        _CLASSES[kind] = name
    return name


def class_path(kind: type) -> str:
    """Module and qualified name of a class."""
    module = sys.modules.get(kind.__module__)
    return f"{_real_module(kind.__module__, vars(module) if module else {})}.{kind.__qualname__}"


def is_imported(kind: type) -> bool:
    """Whether a class is what its name stands for."""
    return _found(kind) is kind


def _found(kind: type) -> Any:
    """What the name of a class stands for."""
    found: Any = sys.modules.get(kind.__module__)
    for part in kind.__qualname__.split("."):
        found = getattr(found, part, None)
    return found


def _is_of_module(function: FunctionType) -> bool:
    """Whether a function is of a module: an imported one, or one that was read from its file."""
    namespace = function.__globals__
    module = sys.modules.get(namespace.get("__name__", ""))
    is_imported = namespace is getattr(module, "__dict__", None)
    return is_imported or namespace.get("__file__") == function.__code__.co_filename


def _real_module(name: str, namespace: dict[str, Any]) -> str:
    """The name by which a module would be imported, where it runs as the program."""
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
    """The variables that a function, or what wraps it, has captured, but for what is wrapped."""
    for layer in _layers(function):
        wrapped = getattr(layer, "__wrapped__", None)
        # By its class: a proxy of a function gives itself out as one, with the function's code.
        if type(layer) is not FunctionType:
            yield type(layer).__name__
            continue
        code = layer.__code__
        for name, cell in zip(code.co_freevars, layer.__closure__ or (), strict=True):
            content = _content(cell)
            # The class of a method that calls super(), and what a generic function is generic in.
            is_told = name == "__class__" or isinstance(content, TypeVar | ParamSpec | TypeVarTuple)
            if not is_told and content is not wrapped:
                yield name


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _EMPTY


def _layers(function: Any) -> Iterator[Any]:
    """A function that was decorated, what it wraps, and so on to the innermost."""
    while function is not None:
        yield function
        function = getattr(function, "__wrapped__", None)


def _claim(name: str, function: FunctionType) -> None:
    """Note whose name this is.

    Raises:
        UnstableError: another function has it and may give different results. One of a module that
            was imported anew is the same function.
    """
    *_, inner = layers = list(_layers(function))
    spec = inner.__globals__.get("__spec__")
    other, other_spec = _FUNCTIONS.get(name, (function, spec))
    *_, other_inner = other_layers = list(_layers(other))
    code, other_code = inner.__code__, other_inner.__code__
    if other is function:
        clashes = False
    elif inner is other_inner or code is other_code:
        # Wrapped in two ways, or defined again: in a loop, or each time that a function is called.
        # Those that capture nothing are the same, but for what a loop at module level changes.
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
        clashes = not (is_read_again or _is_typed(inner) or code == other_code)
    else:
        clashes = Path(code.co_filename).resolve() != Path(other_code.co_filename).resolve()
    if clashes:
        raise UnstableError(f"several functions are named {name}")
    _FUNCTIONS[name] = function, spec


def _is_typed(function: FunctionType) -> bool:
    """Whether a function stands in an interactive session, where one is written again and again."""
    namespace = function.__globals__
    return namespace.get("__name__") == "__main__" and "__file__" not in namespace


_EMPTY: Final = object()
_FUNCTIONS: Final[dict[str, tuple[FunctionType, Any]]] = {}
"""By their names. Held for good: one that is gone may have left its results in the cache."""
_CLASSES: Final[weakref.WeakKeyDictionary[type, str]] = weakref.WeakKeyDictionary()
_MADE: Final[dict[str, weakref.ref[type]]] = {}
