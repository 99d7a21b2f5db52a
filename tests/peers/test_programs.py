"""The programs of the pages "From ..." that use another package run, and produce the documented values."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import code_blocks
from code_blocks import PAGES, blocks_of, name_of

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Server

REQUIRED = {
    page: package
    for page in PAGES
    for package in {block.required for block in blocks_of(page, "python")}
    if package
}


@pytest.mark.parametrize(("page", "package"), REQUIRED.items(), ids=map(name_of, REQUIRED))
def test_program_with_another_package_shows_what_it_says(
    page: Path, package: str, any_server: Server
) -> None:
    """The blocks that require a package run as one program, and each value in a comment is the value."""
    with any_server.client() as client:
        client.flushall()
    # These packages call functions of redis-py that are deprecated, which would be errors in this process.
    done = subprocess.run(
        [sys.executable, code_blocks.__file__, str(page), package],
        env={**os.environ, "CACHE_URL": any_server.url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_each_page_has_a_program_of_its_package() -> None:
    """No page about another package is without a program that uses it."""
    pages = [page for page in PAGES if page.stem.startswith("from-")]
    assert [REQUIRED[page] for page in pages] == [page.stem.removeprefix("from-") for page in pages]
