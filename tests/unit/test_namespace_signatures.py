"""`Namespace` and `SyncNamespace` are written side by side: neither may lack what the other has."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from async_redis_cache import Namespace, SyncNamespace

METHODS = sorted(name for name in dir(Namespace) if not name.startswith("_"))


def parameters(kind: type[Any], name: str) -> list[tuple[Any, ...]]:
    """The names, kinds and defaults of the parameters of a method; none of a property."""
    member = inspect.getattr_static(kind, name)
    if not inspect.isroutine(member):
        return []
    found = inspect.signature(member).parameters.values()
    return [(each.name, each.kind, each.default) for each in found]


def test_both_have_the_same_members() -> None:
    """A method that is added to one is added to the other."""
    assert sorted(name for name in dir(SyncNamespace) if not name.startswith("_")) == METHODS


@pytest.mark.parametrize("name", METHODS)
def test_method_has_the_same_parameters_in_both(name: str) -> None:
    """Names, kinds and defaults of parameters do not differ."""
    assert parameters(Namespace, name) == parameters(SyncNamespace, name)
