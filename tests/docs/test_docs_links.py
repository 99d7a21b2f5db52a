"""Links in the documentation resolve, and every page is reachable."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from code_blocks import PAGES, ROOT, blocks_of, name_of

INDEX = ROOT / "docs" / "index.md"


def prose(page: Path) -> str:
    """The page without its fenced blocks, in which nothing is a heading and nothing a link."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What can follow the `#` of a link to this page: one that is taken gets a number behind it."""
    found: set[str] = set()
    taken: Counter[str] = Counter()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        anchor = re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        found.add(f"{anchor}-{taken[anchor]}" if taken[anchor] else anchor)
        taken[anchor] += 1
    return found


def links(page: Path) -> list[tuple[Path, str]]:
    """The links to files of the project: the file, and the anchor in it."""
    found: list[tuple[Path, str]] = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            found.append(((page.parent / path).resolve() if path else page, anchor))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """Each link to a file of the project leads to a file, and each anchor to a heading."""
    for target, anchor in links(page):
        assert target.exists(), target
        assert not anchor or anchor in anchors(target), (target, anchor)


def test_every_page_can_be_found() -> None:
    """From the index, by following links, one comes to every page."""
    found, unread = {INDEX}, [INDEX]
    while unread:
        for target, _ in links(unread.pop()):
            if target.suffix == ".md" and target not in found and target.exists():
                found.add(target)
                unread.append(target)
    assert set(PAGES) - found - {ROOT / "README.md"} == set()


def test_anchors_are_those_of_the_headings(tmp_path: Path) -> None:
    """The proof that the tests see: punctuation is left out, a second heading is numbered, a comment is none."""
    page = tmp_path / "page.md"
    page.write_text("# A `b`, c\n\n```python\n# no heading\n```\n\n## Same\n\n## Same\n")
    assert anchors(page) == {"a-b-c", "same", "same-1"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pictures_can_be_drawn(page: Path) -> None:
    """No text in a picture holds a semicolon, which to mermaid is the end of a line."""
    for block in blocks_of(page, "mermaid"):
        assert ";" not in block.text, block.line
