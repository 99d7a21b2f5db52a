"""Run http-tests/cache-tests against a proxy, print the figures, and list the cases that do not pass.

    PYTHONPATH=tests/support python http_conformance.py node_modules/http-cache-tests [--case ID] [--cache NAME]...

The cache is this library's (`http_proxy`) by default; "none" and the packages of other caches are in
`http_peer_proxies`. With ORIGIN_PORT in the environment, the origin listens there.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness import Server

PATIENCE_SECONDS = 60
LOOPBACK = "127.0.0.1"
NODE = ("node", "--no-warnings")
CASES = "import tests from '{}'; console.log(JSON.stringify(tests))"
OURS = "async-redis-cache"
NONE = "none"
PEERS = (
    *(OURS, NONE, "hishel", "fastapi-redis-sdk", "fastapi-alcazaba", "litestar"),
    "fastapi-cache2",
)
KINDS = {"required": "required", "optimal": "optimal", "check": "checks"}


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.create_server((LOOPBACK, 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


@contextmanager
def serving(
    command: list[str], port: int, environment: dict[str, str], folder: Path
) -> Generator[None]:
    """Run a program while the block runs, which begins when the program accepts connections."""
    process = subprocess.Popen(
        command, cwd=folder, env=os.environ | environment, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                socket.create_connection((LOOPBACK, port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()


def cases_of(suite: Path) -> dict[str, dict[str, Any]]:
    """Return the cases of the suite by their ids; those for browsers only are left out."""
    code = CASES.format(suite / "tests" / "index.mjs")
    command = [*NODE, "--input-type=module", "--eval", code]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {
        case["id"]: case
        for group in json.loads(printed)
        for case in group["tests"]
        if not case.get("browser_only")
    }


def results_of(suite: Path, cache: str, chosen: str = "") -> str:
    """Run the suite on a cache; return what its client prints: JSON, or the messages of one case."""
    # The package and the repository keep their programs in different folders.
    engine = suite / "test-engine" if (suite / "test-engine").is_dir() else suite
    origin, proxy = int(os.environ.get("ORIGIN_PORT") or free_port()), free_port()
    base = f"http://{LOOPBACK}:{proxy}"
    pid_file = suite / "server.pid"
    with ExitStack() as stack:
        stack.enter_context(
            serving(
                [*NODE, str(engine / "server" / "server.mjs")],
                origin,
                {
                    "npm_config_protocol": "http",
                    "npm_config_port": str(origin),
                    "npm_config_pidfile": str(pid_file),
                },
                suite,
            )
        )
        server = stack.enter_context(Server())
        program = "http_proxy" if cache == OURS else "http_peer_proxies"
        command = [sys.executable, "-m", "uvicorn", f"{program}:app", "--host", LOOPBACK]
        command += ["--port", str(proxy), "--log-level", "warning"]
        # Or the origin's Date would have another beside it.
        command += ["--no-date-header", "--no-server-header", "--lifespan", "on"]
        environment = {
            "ORIGIN": f"http://{LOOPBACK}:{origin}",
            "CACHE": server.url,
            "PEER": cache,
        }
        stack.enter_context(serving(command, proxy, environment, Path(__file__).parent))
        return subprocess.run(
            [*NODE, str(engine / "cli.mjs")],
            check=True,
            cwd=suite,
            env=os.environ | {"npm_config_base": base, "npm_package_config_id": chosen},
            stdout=subprocess.PIPE,
            text=True,
        ).stdout


def passes(case: str, cases: dict[str, dict[str, Any]], results: dict[str, Any]) -> bool | None:
    """Return whether a case passes; None if one that it depends on does not, so that it says nothing."""
    for needed in cases[case].get("depends_on", ()):
        if not passes(needed, cases, results):
            return None
    return results.get(case) is True


def measure(suite: Path, cache: str, *, lists_failed: bool) -> None:
    """Run the suite on a cache, and print what has come of it."""
    cases, results = cases_of(suite), json.loads(results_of(suite, cache))
    number, passed, alone = Counter[str](), Counter[str](), Counter[str]()
    failed: list[str] = []
    for case, described in cases.items():
        kind = described.get("kind", "required")
        number[kind] += 1
        outcome = passes(case, cases, results)
        passed[kind] += outcome is True
        alone[kind] += results.get(case) is True
        if not outcome and kind != "check":
            result = results.get(case)
            reason = "depends on another" if outcome is None else result and result[-1]
            failed.append(f"{kind:8} {case}: {described['name']}: {reason}")
    if lists_failed:
        print("\n".join(sorted(failed)))  # noqa: T201
    release = "" if cache in {NONE, OURS} else f" {version(cache)}"
    figures = (
        # In brackets, as if no case depended on another one.
        f"{title} {passed[kind]} ({alone[kind]}) of {number[kind]}"
        for kind, title in KINDS.items()
    )
    print(f"{cache}{release}: {', '.join(figures)}", flush=True)  # noqa: T201


def main() -> None:
    """Run the suite, or one of its cases, on the chosen caches."""
    parser = argparse.ArgumentParser()
    parser.add_argument("suite", type=Path)
    parser.add_argument("--case", help="run only this one, and print its messages")
    parser.add_argument("--cache", action="append", help=f"{OURS} by default, or another package")
    parser.add_argument("--peers", action="store_true", help="run it on all of them")
    options = parser.parse_args()
    suite: Path = options.suite.resolve()
    caches: list[str] = list(PEERS) if options.peers else options.cache or [OURS]
    for cache in caches:
        if options.case:
            print(results_of(suite, cache, options.case))  # noqa: T201
        else:
            measure(suite, cache, lists_failed=len(caches) == 1)


if __name__ == "__main__":
    main()
