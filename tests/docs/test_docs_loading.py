"""The pages about loading have all their parts, and their options match the code."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from async_redis_cache import LoadOptions
from async_redis_cache._common.options import Options, path_of
from code_blocks import ROOT, name_of

LOADING = ROOT / "docs" / "loading"
INDEX = LOADING / "index.md"
FEATURES = sorted({*LOADING.glob("*.md")} - {INDEX})
PARTS = ["Before and after", "Example", "Guarantees", "Options", "Limitations"]
TERMS = {
    "adaptive-caching.md": "adaptive caching, TTL, 304 Not Modified",
    "batch-loading.md": "batch loading, DataLoader, N+1, GraphQL",
    "cache-stampede.md": "cache stampede, dogpile, thundering herd, single-flight, request coalescing, lease",
    "decorator.md": "cached, memoizes",
    "entries.md": "Cache-Control, X-Cache, TTL",
    "index.md": "cache-aside, read-through, get-or-set",
    "negative-caching.md": "negative caching, cache penetration",
    "redis-unavailable.md": "fail open, circuit breaker, pending invalidations",
    "refresh-ahead.md": "refresh-ahead, XFetch, probabilistic early expiration, jitter",
    "stale-while-revalidate.md": "stale-while-revalidate, stale-if-error, soft TTL, grace period",
    "tag-invalidation.md": "tag invalidation, surrogate keys, cache tags",
    "threads.md": "context variable, thread-local",
}
"""What each page is searched by."""
OPTIONS = {path_of(field): field for field in dataclasses.fields(Options)}


class Knob(NamedTuple):
    """A row of a table that names one option."""

    name: str
    default: str
    unit: str | None


def section(page: Path, heading: str) -> str:
    """What stands under a heading."""
    _, _, rest = page.read_text().partition(f"\n## {heading}\n")
    return re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def tables(text: str) -> Iterator[list[dict[str, str]]]:
    """The tables of a text: their rows, by the names of their columns."""
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        lines = [line.strip().strip("|").split("|") for line in table.splitlines()]
        names = [cell.strip() for cell in lines[0]]
        assert all(len(cells) == len(names) for cells in lines), lines
        yield [dict(zip(names, map(str.strip, cells), strict=True)) for cells in lines[2:]]


def knobs(page: Path) -> Iterator[Knob]:
    """The rows that name one option, of all tables that give defaults."""
    for table in tables(page.read_text()):
        for row in table:
            names = re.findall(r"`([^`]+)`", row.get("option", ""))
            if len(names) == 1 and "default" in row:
                yield Knob(names[0], row["default"].strip("`"), row.get("unit"))


def shown(default: Any) -> str:
    """A default as the pages write it."""
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


@pytest.mark.parametrize("page", FEATURES, ids=name_of)
def test_each_page_has_its_parts(page: Path) -> None:
    """A summary, the shortest code, a table, a picture, an example, guarantees, options, limits; in this order."""
    text = page.read_text()
    opening, _, _ = text.partition("\n## ")
    title, summary, *_, table = opening.strip().split("\n\n")
    assert re.fullmatch(r"# .+", title)
    assert re.fullmatch(r"\*\*[^*]+\.\*\*", summary)
    assert "\n```python\n" in opening
    assert table.startswith("| what | option | default | cost |\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == PARTS
    assert re.search(r"^```(mermaid|text|diff)$", section(page, "Before and after"), re.MULTILINE)
    assert "```python\n" in section(page, "Example")
    assert re.search(r"^- ", section(page, "Limitations"), re.MULTILINE)


@pytest.mark.parametrize("page", [INDEX, *FEATURES], ids=name_of)
def test_each_page_opens_with_the_terms_of_the_field(page: Path) -> None:
    """A search for the field's words, with or without hyphens, finds the first section of the page."""
    opening, _, _ = page.read_text().partition("\n## ")
    words = re.sub(r"[-\s]+", " ", opening.lower())
    for term in TERMS[page.name].split(", "):
        assert re.sub("-", " ", term.lower()) in words, term


@pytest.mark.parametrize("page", FEATURES, ids=name_of)
def test_each_guarantee_names_its_test(page: Path) -> None:
    """Each row of a table of guarantees names a test file."""
    guarantees = [
        row for table in tables(section(page, "Guarantees")) for row in table if "guarantee" in row
    ]
    assert guarantees
    for row in guarantees:
        assert re.search(r"`tests/[\w/]+\.py`", row["tested by"]), row["guarantee"]


@pytest.mark.parametrize("page", FEATURES, ids=name_of)
def test_options_have_the_defaults_of_the_code(page: Path) -> None:
    """Where a table names an option of the cache, its default and its unit are those of `Options`."""
    for knob in knobs(page):
        if knob.name in OPTIONS:
            field = OPTIONS[knob.name]
            assert knob.default == shown(field.default), knob
            if knob.unit is not None and field.metadata["unit"]:
                assert knob.unit == field.metadata["unit"], knob
        else:
            # What only calls take has no section.
            assert not re.match(r"(options|loading|near_cache)\.", knob.name), knob


def test_each_option_of_a_load_has_a_page() -> None:
    """All of `loading.*`, and all that a call may say."""
    named = {knob.name for page in FEATURES for knob in knobs(page)}
    assert {path for path in OPTIONS if path.startswith("loading.")} - named == set()
    said = {name.removeprefix("loading.") for name in named}
    assert set(LoadOptions.__annotations__) - said == set()


def test_the_index_has_each_page() -> None:
    """In the table of features; and the index of all pages has them too."""
    features = section(INDEX, "The features")
    everything = (ROOT / "docs" / "index.md").read_text()
    for page in FEATURES:
        assert f"({page.name})" in features, page.name
        assert f"(loading/{page.name})" in everything, page.name
