"""The fields of public classes have docstrings, which editors show."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import async_redis_cache
from async_redis_cache import CacheEntry, CacheStats, LoadOptions

PACKAGE = Path(async_redis_cache.__file__).parent


def definition_of(kind: type[Any]) -> ast.ClassDef:
    """The class statement, wherever it is: `__module__` of a public class names the package."""
    for file in PACKAGE.rglob("*.py"):
        for statement in ast.parse(file.read_text()).body:
            if isinstance(statement, ast.ClassDef) and statement.name == kind.__name__:
                return statement
    raise AssertionError(f"{kind.__name__} is not defined in {PACKAGE}")


def fields_without_docstring(kind: type[Any]) -> Iterator[str]:
    """The annotated fields of a class that no text follows."""
    body = definition_of(kind).body
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign):
            match following:
                case ast.Expr(value=ast.Constant(value=str())):
                    pass
                case _:
                    yield ast.unparse(statement.target)


@pytest.mark.parametrize("kind", [CacheEntry, CacheStats, LoadOptions])
def test_each_field_has_a_docstring(kind: type[Any]) -> None:
    """What it counts or does, in which unit."""
    assert list(fields_without_docstring(kind)) == []
