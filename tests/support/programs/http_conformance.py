"""Run http-tests/cache-tests against `http_proxy`, print the figures, and list the cases that do not pass.

    python http_conformance.py node_modules/http-cache-tests [id of a case]

With ORIGIN_PORT in the environment, the origin listens there.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 60
LOOPBACK = "127.0.0.1"
NODE = ("node", "--no-warnings")
CASES = "import tests from '{}'; console.log(JSON.stringify(tests))"
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


def results_of(suite: Path, chosen: str = "") -> str:
    """Run the suite; return what its client prints: JSON, or the messages of one case."""
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
        command = [sys.executable, "-m", "uvicorn", "http_proxy:app", "--host", LOOPBACK]
        command += ["--port", str(proxy), "--log-level", "warning"]
        # Or the origin's Date would have another beside it.
        command += ["--no-date-header", "--no-server-header"]
        environment = {"ORIGIN": f"http://{LOOPBACK}:{origin}"}
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


def main(suite: Path, chosen: str = "") -> None:
    """Run the suite, or one of its cases, and print what has come of it."""
    printed = results_of(suite, chosen)
    if chosen:
        print(printed)  # noqa: T201
        return
    cases, results = cases_of(suite), json.loads(printed)
    number, passed, failed = Counter[str](), Counter[str](), list[str]()
    for case, described in cases.items():
        kind = described.get("kind", "required")
        number[kind] += 1
        outcome = passes(case, cases, results)
        passed[kind] += outcome is True
        if not outcome and kind != "check":
            result = results.get(case)
            reason = "depends on another" if outcome is None else result and result[-1]
            failed.append(f"{kind:8} {case}: {described['name']}: {reason}")
    print("\n".join(sorted(failed)))  # noqa: T201
    for kind, title in KINDS.items():
        print(f"{title}: {passed[kind]} of {number[kind]}")  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), *sys.argv[2:])
