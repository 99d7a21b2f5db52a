"""The page on installing lists what is installed: the extras, and the packages that come without any."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from code_blocks import ROOT

PAGE = (ROOT / "docs/how-to/install.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def first_cells(heading: str) -> set[str]:
    """What stands in backticks in the first column of the first table under a heading."""
    _, _, section = PAGE.partition(f"\n{heading}\n")
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert table is not None
    cells = [line.split("|")[1] for line in table[0].splitlines()[2:]]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def needed(requirement: str, extras: frozenset[str] = frozenset()) -> set[str]:
    """The package of a requirement and those that it needs in turn, on any Python that is supported."""
    wanted = Requirement(requirement)
    markers = [
        {"extra": extra, "python_version": version}
        for extra in ("", *extras)
        for version in ("3.11", "3.13")
    ]
    if wanted.marker is not None and not any(map(wanted.marker.evaluate, markers)):
        return set()
    found: set[str] = {canonicalize_name(wanted.name)}
    for inner in requires(wanted.name) or ():
        found |= needed(inner, frozenset(wanted.extras))
    return found


def test_extras_are_those_of_the_project() -> None:
    """Each extra has a row."""
    assert first_cells("## Extras") == set(PROJECT["optional-dependencies"])


def test_packages_are_those_that_are_required() -> None:
    """Without extras, exactly the listed packages are installed, and no test tool is among them."""
    listed = {canonicalize_name(name) for name in first_cells("## What is installed")}
    assert listed == set().union(*map(needed, PROJECT["dependencies"]))
    assert f"brings {len(listed)} other packages" in PAGE
    assert "pytest" not in listed
    assert "pytest" in needed(PROJECT["optional-dependencies"]["pip-services"][0])


def test_versions_of_python_are_those_of_the_classifiers() -> None:
    """Each version of Python that the package declares is on the page."""
    declared = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if ":: 3." in name]
    assert len(declared) > 2
    assert [version for version in declared if version not in PAGE] == []
