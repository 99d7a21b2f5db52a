"""The fields of what users read and write have docstrings, which editors show."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from async_redis_cache import CacheEntry, CacheStats, LoadOptions


def fields_without_docstring(kind: type[Any]) -> Iterator[str]:
    """The annotated fields of a class that no text follows."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    body = definition.body
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
