"""The set-ups that a test runs in: which API, server, storage format, near cache and private loop.

Fixtures (`setup`, `api`, `flavour`, `storage`, `private_loop`) parametrise tests over all set-ups.
`@pytest.mark.depends_on("api", "server", "storage", "near", "loop")` names the dimensions that can change the
outcome of a test; along every other dimension the test runs once, in the usual set-up. The mark of a function
replaces that of its module; an unmarked test depends on all dimensions. By default the unusual set-ups are left
out as well; `--all-setups` runs every set-up that a test depends on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from harness.flavours import FLAVOURS

if TYPE_CHECKING:
    from collections.abc import Iterator

USUAL: Final = {
    "api": "async",
    "server": FLAVOURS[0],
    "storage": "bounded",
    "near": "bounded",
    "loop": "asyncio",
}
"""By dimension, the set-up of a test that does not depend on it."""

VALUES: Final[dict[str, dict[str, frozenset[str]]]] = {
    "api": {"api": frozenset({"async", "sync"})},
    "flavour": {"server": frozenset({"valkey", "redis"})},
    "storage": {"storage": frozenset({"bounded", "unbounded"}), "near": frozenset({"near"})},
    "private_loop": {"loop": frozenset({"asyncio", "uvloop"})},
}
"""By fixture, its dimensions and their values; any other value is a parameter of the test's own."""

USUAL_CONTRACT: Final = frozenset(
    {"async-valkey-bounded", "async-valkey-near", "sync-valkey-bounded"}
)
"""The default set-ups of the contract's tests; `--all-setups` has 28 more."""


def selected(items: list[pytest.Item], *, all_setups: bool) -> list[pytest.Item]:
    """Select the items whose set-up can make a difference to their test.

    A test that has no item in the usual set-up, such as one named by its whole node id, keeps all of its items.

    Raises:
        pytest.UsageError: a mark names an unknown dimension.
    """
    kept = [item for item in items if _matters(item)]
    functions = {_function(item) for item in kept}
    chosen = {*kept, *(item for item in items if _function(item) not in functions)}
    return [item for item in items if item in chosen and (all_setups or not _is_unusual(item))]


def _function(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[0]


def _dimensions(item: pytest.Item) -> Iterator[tuple[str, str]]:
    """The dimensions of an item's set-up, and where it stands on them."""
    callspec = getattr(item, "callspec", None)
    params: dict[str, Any] = {} if callspec is None else callspec.params
    if setup := params.get("setup"):
        yield from (("api", setup.api), ("server", setup.server))
        yield ("near" if setup.storage == "near" else "storage"), setup.storage
    for name, value in params.items():
        for dimension, values in VALUES.get(name, {}).items():
            if isinstance(value, str) and value in values:
                yield dimension, value


def _matters(item: pytest.Item) -> bool:
    mark = item.get_closest_marker("depends_on")
    if mark is None:
        return True
    if unknown := set(mark.args) - USUAL.keys():
        raise pytest.UsageError(f"{item.nodeid} depends on unknown dimensions: {unknown}")
    return all(
        dimension in mark.args or value == USUAL[dimension]
        for dimension, value in _dimensions(item)
    )


def _is_unusual(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    if callspec is not None and (setup := callspec.params.get("setup")):
        return str(setup) not in USUAL_CONTRACT
    return any(
        value != USUAL[dimension] for dimension, value in _dimensions(item) if dimension != "api"
    )
