"""The glossary is a sorted list, and each of its terms leads to the page that explains it."""

from __future__ import annotations

import re

from code_blocks import ROOT

GLOSSARY = ROOT / "docs" / "glossary.md"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in re.findall(r"^\|.*\|$", GLOSSARY.read_text(), re.MULTILINE)[2:]
]


def test_terms_are_sorted_and_defined_once() -> None:
    """Terms are in alphabetical order, upper and lower case alike, without duplicates."""
    terms = [re.sub(r"[^a-z ]", " ", term.lower()) for term, _, _ in ROWS]
    assert terms == sorted(set(terms))
    assert len(terms) > 50


def test_each_term_links_to_its_page() -> None:
    """Each meaning ends with a link to a page of the documentation."""
    for term, _, meaning in ROWS:
        assert re.search(r"\]\([\w/-]+\.md\)$", meaning), term
