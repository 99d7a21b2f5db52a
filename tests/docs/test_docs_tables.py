"""The lists of the documentation match the code: options, errors, methods, modules, commands."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

import async_redis_cache
from async_redis_cache import AsyncRedisCache, CacheError, CacheStats, RedisCache
from async_redis_cache._common.failures import ServerReply, failure_of
from code_blocks import PAGES, ROOT, blocks_of, name_of

SOURCE = ROOT / "src" / "async_redis_cache"
REFERENCE = ROOT / "docs" / "reference"
DESIGN = ROOT / "docs" / "explanation" / "design.md"


def rows(page: Path, heading: str) -> Iterator[list[list[str]]]:
    """The rows of the first table under a heading; of each cell, what stands in backticks."""
    _, _, section = page.read_text().partition(f"\n{heading}\n")
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert table is not None, f"{name_of(page)} has no table under {heading}"
    for line in table[0].splitlines()[2:]:
        yield [re.findall(r"`([^`]+)`", cell) for cell in line.strip("|").split("|")]


def test_option_table_is_the_one_the_code_gives() -> None:
    """The options in the documentation are the fields of `Options`."""
    check = [sys.executable, "docs/generate.py", "--check"]
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def errors() -> dict[str, type[CacheError]]:
    named = {name: getattr(async_redis_cache, name) for name in async_redis_cache.__all__}
    return {
        name: kind
        for name, kind in named.items()
        if isinstance(kind, type) and issubclass(kind, CacheError)
    }


def raised() -> set[tuple[str, str]]:
    """Each code that the source puts an error together with, and the name it is given to."""
    found: set[tuple[str, str]] = set()
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Call(
                    func=ast.Name(id="Failure"),
                    args=[ast.Name(id=kind), ast.Constant(value=str(code)), *_],
                ):
                    found.add((kind, code))
                case ast.Call(func=ast.Name(id=kind), args=[ast.Constant(value=str(code)), _]) if (
                    kind != "cast" and re.fullmatch(r"[A-Z]+(_[A-Z]+)*", code)
                ):
                    found.add((kind, code))
                case _:
                    pass
    return found


def test_error_table_has_every_type_with_its_parents() -> None:
    """Each error type stands in the table, beside the types that it also is."""
    listed = {
        kind: set(parents) for [[kind], parents, _] in rows(REFERENCE / "errors.md", "## By type")
    }
    leaves = {name: kind for name, kind in errors().items() if not kind.__subclasses__()}
    assert listed == {
        name: {base.__name__ for base in kind.__bases__} - {"CacheError"}
        for name, kind in leaves.items()
    }


def test_error_table_has_every_code_that_is_raised() -> None:
    """Each code raised in the source stands in the table at its type, and no other does."""
    listed = {
        (kind, code)
        for [[kind], _, codes] in rows(REFERENCE / "errors.md", "## By type")
        for code in codes
    }
    words = ("LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "ERR")
    answers = [failure_of(ServerReply(f"{word} and more")) for word in words]
    told = raised() | {(failure.kind.__name__, failure.code) for failure in answers}
    assert {code for _, code in listed} == {code for _, code in told}
    # What has another name on the way becomes an error of one of the types.
    assert {(kind, code) for kind, code in told if kind in errors()} <= listed


def test_each_code_is_explained() -> None:
    """Each code of a type has a row with its meaning and what to do."""
    by_type = {c for row in rows(REFERENCE / "errors.md", "## By type") for c in row[2]}
    explained = [row[0][0] for row in rows(REFERENCE / "errors.md", "## By code")]
    assert sorted(by_type) == sorted(explained)


@pytest.mark.parametrize(
    ("word", "kind"),
    [(word, kind) for [[word], [kind], _] in rows(REFERENCE / "errors.md", "## Server errors")],
)
def test_server_error_codes_are_translated_as_documented(word: str, kind: str) -> None:
    """An error of the server becomes the documented type, and is not tried again."""
    failure = failure_of(ServerReply(f"{word} and more"))
    assert failure.kind.__name__ == kind
    assert not failure.retryable
    if failure.kind is async_redis_cache.CacheServerError:
        assert failure.code == word


def signature_of(name: str) -> str:
    """A method's parameters as the page writes them: without types and without self."""
    signature = inspect.signature(getattr(AsyncRedisCache, name))
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
        if parameter.name != "self"
    ]
    return f"{name}{inspect.Signature(bare)}"


def test_api_has_every_method_with_its_parameters() -> None:
    """The methods on the page are those of both classes, with the parameters they have."""
    headings = re.findall(r"^### (.+)$", (REFERENCE / "api.md").read_text(), re.MULTILINE)
    names = [name for name in dir(AsyncRedisCache) if not name.startswith("_")]
    assert sorted(headings) == sorted(map(signature_of, names))
    sync_names = {name for name in dir(RedisCache) if not name.startswith("_")}
    assert set(names) - sync_names == {"as_sync"}
    assert sync_names - set(names) == {"as_async"}


def test_api_has_every_public_name() -> None:
    """Each name that the package exports is on the page."""
    written = set(re.findall(r"\w+", (REFERENCE / "api.md").read_text()))
    assert set(async_redis_cache.__all__) - written == set()


def test_api_has_every_counter() -> None:
    """The counters on the page are the fields of `CacheStats`."""
    listed = [row[0][0] for row in rows(REFERENCE / "api.md", "## CacheStats")]
    assert listed == [field.name for field in fields(CacheStats)]


def test_design_lists_the_packages_and_their_modules() -> None:
    """The table has the packages in the enforced order, each with the modules that it has."""
    (layers,) = (
        contract["layers"]
        for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"][
            "importlinter"
        ]["contracts"]
        if contract["type"] == "layers"
    )
    integrations, *packages = rows(DESIGN, "## The package")
    assert integrations[0] == re.findall(r"\w+", layers[0])
    assert [row[0][0] for row in packages] == re.findall(r"\w+", " ".join(layers[1:]))
    for (package,), modules, _ in packages:
        files = {file.stem for file in (SOURCE / package).glob("*.py")} - {"__init__"}
        assert sorted(files) == modules, package


def test_design_names_files_that_exist() -> None:
    """Each module that the page names as the place of something exists."""
    named = re.findall(r"`(_\w+/\w+\.py)`", DESIGN.read_text())
    assert named
    assert [name for name in named if not (SOURCE / name).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_name_sessions_and_files_that_exist(page: Path) -> None:
    """Each nox session and each test file that a page names exists."""
    text = page.read_text()
    noxfile = (ROOT / "noxfile.py").read_text()
    for session in re.findall(r"nox -s ([\w-]+)", text):
        function = session.replace("-", "_")
        assert re.search(rf"^def {function}\(", noxfile, re.MULTILINE), session
    for file in re.findall(r"\btests/[\w/]+\.py\b", text):
        assert (ROOT / file).is_file(), file


def test_readme_gives_the_two_commands() -> None:
    """A machine with nothing but Python gets by with these two commands."""
    commands = [block.text.strip() for block in blocks_of(ROOT / "README.md", "sh")]
    start = "python3 -m venv .venv && .venv/bin/pip install nox && .venv/bin/nox -s"
    assert commands == [f"{start} demo", f"{start} tests"]
