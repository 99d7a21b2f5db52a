"""Write the signatures of `RedisCache` from those of `AsyncRedisCache`.

Run `python tests/support/sync_signatures.py`. With `--check` it writes nothing, and fails if a signature is out of date.
It writes overloads, parameters, result types and the first line of each docstring. The bodies, and what else a docstring
says, are written by hand.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

API = Path(__file__).parents[2] / "src" / "async_redis_cache" / "_api"
ASYNCHRONOUS = (
    "async_cache.py",
    "async_entries.py",
    "async_loading.py",
    "atomic.py",
    "batch_loading.py",
)
SYNCHRONOUS = ("sync_atomic.py", "sync_cache.py", "sync_loading.py")
CLASSES = {
    "AsyncAtomic",
    "AsyncBatchLoading",
    "AsyncEntries",
    "AsyncLoading",
    "AsyncRedisCache",
    "RedisCache",
    "SyncAtomic",
    "SyncLoading",
}

Method = ast.FunctionDef | ast.AsyncFunctionDef


def methods(source: str) -> dict[str, list[Method]]:
    """By name, the overloads of each method of the public classes, and last its implementation."""
    found: dict[str, list[Method]] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name in CLASSES:
            for method in node.body:
                if isinstance(method, Method):
                    found.setdefault(method.name, []).append(method)
    return found


def place(definitions: list[Method]) -> tuple[int, int]:
    """The lines from the first overload to the first line of the docstring."""
    first, last = definitions[0], definitions[-1]
    begin = min([first.lineno, *(decorator.lineno for decorator in first.decorator_list)])
    return begin - 1, last.body[0].lineno


def signatures() -> dict[str, str]:
    """By name, what a synchronous method has from its asynchronous one."""
    found: dict[str, str] = {}
    for file in ASYNCHRONOUS:
        source = (API / file).read_text(encoding="utf-8")
        lines = source.splitlines(keepends=True)
        for name, definitions in methods(source).items():
            if isinstance(definitions[-1], ast.AsyncFunctionDef) and not name.startswith("_"):
                begin, end = place(definitions)
                text = "".join(lines[begin:end]).replace("    async def ", "    def ")
                found[name] = text.rstrip().removesuffix('"""').rstrip()
    return found


def written(file: str, wanted: Mapping[str, str]) -> str:
    """The text of a module of the synchronous API with these signatures."""
    source = (API / file).read_text(encoding="utf-8")
    lines = source.splitlines(keepends=True)
    for name, definitions in reversed(methods(source).items()):
        if name in wanted:
            begin, end = place(definitions)
            is_one_line = lines[end - 1].count('"""') > 1
            lines[begin:end] = [wanted[name] + ('"""' if is_one_line else "") + "\n"]
    command = ["ruff", "format", "--quiet", "--stdin-filename", str(API / file), "-"]
    formatted = subprocess.run(
        command, input="".join(lines), capture_output=True, text=True, check=True
    )
    return formatted.stdout


def main() -> None:
    wanted = signatures()
    present = [
        name for file in SYNCHRONOUS for name in methods((API / file).read_text(encoding="utf-8"))
    ]
    if missing := ", ".join(name for name in wanted if name not in present):
        raise SystemExit(f"RedisCache lacks {missing}")
    for file in SYNCHRONOUS:
        text = written(file, wanted)
        if text == (API / file).read_text(encoding="utf-8"):
            continue
        if sys.argv[1:] == ["--check"]:
            raise SystemExit(f"{file} is out of date; run {Path(__file__).name}")
        (API / file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
