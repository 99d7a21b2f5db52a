"""The code blocks of the documentation, and how they are run.

The convention, as docs/index.md tells it to readers: the python blocks of a page are one program,
in their order. A block that awaits at top level runs as it would in `python -m asyncio`, all of a
page on one loop; any other runs as a script. A comment behind an expression or an assignment that
is a literal is the value; a comment behind a `print` is what it prints. Blocks that begin with
`# Requires: package` are a program of their own, which runs where the package is installed.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import inspect
import io
import logging
import re
import sys
import tokenize
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_LOG = logging.getLogger("async_redis_cache")
_REQUIRES = re.compile(r"# Requires: (\S+)\n")
_TIME_LEFT = re.compile(r"(?<=; ttl=)\d+")
"""In `Cache-Status`; it depends on the speed of the machine."""
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


def name_of(page: Path) -> str:
    """The page as one writes it: from the root of the project."""
    return str(page.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    """A fenced block, and where its first line stands."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def required(self) -> str | None:
        """The package that the block requires and the tests do not."""
        found = _REQUIRES.match(self.text)
        return found and found[1]


def blocks_of(page: Path, *languages: str) -> Iterator[Block]:
    """The page's blocks in these languages, in their order."""
    text = page.read_text()
    for fence in _FENCE.finditer(text):
        indent, language, code = fence.groups()
        if language in languages:
            line = text.count("\n", 0, fence.start(3)) + 1
            yield Block(page, line, language, re.sub(f"^{indent}", "", code, flags=re.MULTILINE))


class Page:
    """Runs blocks one after the other in one namespace, and compares values with comments."""

    def __init__(self) -> None:
        self.compared = 0
        # A module that can be imported: dataclasses and pickle look their classes up in theirs.
        self._module = types.ModuleType("page")
        self._module.__dict__["__compare__"] = self._compare
        # As `exec` adds it; annotations are evaluated with it.
        self._module.__dict__["__builtins__"] = builtins
        self._runner = asyncio.Runner()
        # A page adds handlers, which must not get what other tests log.
        self._handlers = tuple(_LOG.handlers)

    def __enter__(self) -> Self:
        sys.modules["page"] = self._module
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.close()
        _LOG.handlers[:] = self._handlers
        del sys.modules["page"]

    def give(self, **names: Any) -> None:
        """Define names, as if the page had imported them."""
        self._module.__dict__.update(names)

    def run(self, block: Block) -> None:
        """Run a block; what it raises points into the page."""
        tree = ast.parse(block.text)
        _Comparisons(_comments(block.text)).visit(tree)
        ast.fix_missing_locations(tree)
        ast.increment_lineno(tree, block.line - 1)
        code = compile(tree, block.page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        if code.co_flags & inspect.CO_COROUTINE:
            self._runner.run(types.FunctionType(code, self._module.__dict__)())
        else:
            exec(code, self._module.__dict__)

    def _compare(self, value: Any, comment: str, *, printed: bool) -> Any:
        self.compared += 1
        if printed:
            assert _TIME_LEFT.sub("", str(value)) == _TIME_LEFT.sub("", comment)
        else:
            expected = ast.literal_eval(comment)
            assert value == expected
            assert type(value) is type(expected)
        return value


class _Comparisons(ast.NodeTransformer):
    """Wraps what stands in front of a comment into a comparison with it."""

    def __init__(self, comments: dict[int, str]) -> None:
        self._comments = comments

    def visit_Expr(self, node: ast.Expr) -> ast.Expr:
        comment = self._comments.get(node.end_lineno or 0)
        match node.value:
            case _ if comment is None:
                pass
            case ast.Call(func=ast.Name(id="print"), args=[shown], keywords=[]):
                node.value.args = [_comparison(shown, comment, printed=True)]
            case value if _is_literal(comment):
                node.value = _comparison(value, comment, printed=False)
            case _:
                pass
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.Assign:
        comment = self._comments.get(node.end_lineno or 0)
        if comment is not None and _is_literal(comment):
            node.value = _comparison(node.value, comment, printed=False)
        return node


def _comparison(value: ast.expr, comment: str, *, printed: bool) -> ast.Call:
    return ast.Call(
        ast.Name("__compare__", ast.Load()),
        [value, ast.Constant(comment)],
        [ast.keyword("printed", ast.Constant(printed))],
    )


def _comments(code: str) -> dict[int, str]:
    """Comments by line; `# Result: 1` means the same as `# 1`."""
    return {
        token.start[0]: token.string.lstrip("# ").removeprefix("Result: ").rstrip()
        for token in tokenize.generate_tokens(io.StringIO(code).readline)
        if token.type == tokenize.COMMENT
    }


def program_of(page: Path, required: str | None = None) -> list[Block]:
    """The Python blocks of a page that require this package; None: those that require none."""
    return [block for block in blocks_of(page, "python") if block.required == required]


def run_page(page: Path, required: str | None = None) -> None:
    """Run the program of a page."""
    with Page() as program:
        for block in program_of(page, required):
            program.run(block)


def _is_literal(comment: str) -> bool:
    try:
        ast.literal_eval(comment)
    except (ValueError, SyntaxError):
        return False
    return True


if __name__ == "__main__":
    from harness.deadlines import LONG, defaults

    with defaults(LONG):
        run_page(Path(sys.argv[1]), *sys.argv[2:])
