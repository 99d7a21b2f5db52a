"""Fixtures of all tests: real servers, a network with faults, and checks for leaked tasks and descriptors."""

from __future__ import annotations

import gc
import inspect
import os
import uuid
from contextlib import ExitStack
from typing import TYPE_CHECKING, Unpack

import hypothesis
import pytest

from harness import (
    FLAVOURS,
    Certificates,
    Client,
    Flavour,
    Proxy,
    Server,
    ServerOptions,
    StartProxy,
    StartServer,
    installed,
    needs_redis,
)
from harness.access import Access
from harness.choices import LOOP, SERVERS, reason_against
from harness.deadlines import LONG, OF_THE_LIBRARY, defaults
from harness.fault_report import FaultReport
from harness.leaks import open_descriptors, tasks_left
from harness.loops import blocked, chosen_loops
from harness.setups import selected

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterator

# Derandomised, so that a failure comes from the change under test; random in the long form.
hypothesis.settings.register_profile("default", deadline=None, derandomize=True)
hypothesis.settings.register_profile(
    "ci", deadline=None, max_examples=200, print_blob=True, derandomize=True
)
hypothesis.settings.register_profile("long", deadline=None, max_examples=5_000)
# A mutant is killed by the first failure: no need to shrink it.
hypothesis.settings.register_profile(
    "mutation",
    deadline=None,
    derandomize=True,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "default")
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption(
        "--faults",
        action="store_true",
        help="run the scenarios of fault injection alone, and show a table",
    )
    parser.addoption(
        "--all-setups",
        action="store_true",
        help="run each test in every set-up that it depends on",
    )
    group.addoption("--faults-file", metavar="FILE", help="write the table to FILE as JSON")


def pytest_configure(config: pytest.Config) -> None:
    stack = ExitStack()
    stack.enter_context(chosen_loops())
    stack.enter_context(defaults(LONG))
    config.add_cleanup(stack.close)
    if "debug" in LOOP:
        # Otherwise pytest-asyncio switches debug mode off in its loops.
        config.option.asyncio_debug = True
    report = FaultReport(
        alone=bool(config.getoption("--faults")), file=config.getoption("--faults-file")
    )
    config.pluginmanager.register(report, "faults")
    config.addinivalue_line(
        "markers", "no_leaks: the test fails if it leaves a file descriptor open"
    )
    config.addinivalue_line(
        "markers", "depends_on(*dimensions): of api, server, storage, near and loop, what matters"
    )
    config.addinivalue_line(
        "markers",
        "not_with(*choices, reason): skip with any of these values of ARC_LOOP or ARC_SERVERS",
    )
    if ("CI" in os.environ or "tls" in SERVERS) and installed("redis") is None:
        raise pytest.UsageError(
            "CI and ARC_SERVERS=tls need Redis: redis-server is not on the PATH"
        )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the set-ups that a test does not depend on and, by default, the unusual ones."""
    if config.getoption("--faults"):
        return
    kept = selected(items, all_setups=bool(config.getoption("--all-setups")))
    chosen = set(kept)
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = kept


def pytest_collection_finish(session: pytest.Session) -> None:
    """Exempt the thousands of collected items from garbage collection, which many tests run by themselves."""
    gc.collect()
    gc.freeze()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Add the leak checks as outermost fixtures, so that all other fixtures clean up before them."""
    if reason := reason_against(item):
        item.add_marker(pytest.mark.skip(reason))
    if not isinstance(item, pytest.Function):
        return
    checks = ["nothing_has_blocked"] if "watched" in LOOP else []
    if item.get_closest_marker("no_leaks"):
        checks.append("no_descriptor_left")
    if inspect.iscoroutinefunction(item.obj):
        checks.append("no_task_left")
    item.fixturenames[:0] = [check for check in checks if check not in item.fixturenames]


@pytest.fixture
def default_deadlines() -> Iterator[None]:
    """The library's own defaults of the options that limit time, instead of the long ones of the tests."""
    with defaults(OF_THE_LIBRARY):
        yield


@pytest.fixture
async def no_task_left() -> AsyncIterator[None]:
    yield
    assert not tasks_left()


@pytest.fixture
def nothing_has_blocked() -> Iterator[None]:
    blocked.clear()
    yield
    assert not blocked, "\n".join(blocked)


@pytest.fixture
def no_descriptor_left() -> Iterator[None]:
    before = open_descriptors()
    yield
    after = open_descriptors()
    assert {number: after[number] for number in after.keys() - before.keys()} == {}


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A certificate authority with a server and a client certificate."""
    return Certificates.create(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session", autouse=True)
def access(certificates: Certificates) -> Iterator[Access]:
    """How the servers of the fixtures below are reached: as `ARC_SERVERS` says."""
    chosen = Access(certificates)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in chosen.environment.items():
            patch.setenv(name, value)
        yield chosen


@pytest.fixture(scope="session")
def valkey_server(access: Access) -> Iterator[Server]:
    """The Valkey server that the tests of this process share."""
    with Server("valkey", **access.options({})) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(access: Access) -> Iterator[Server]:
    """The Redis server that the tests of this process share; for tests marked `needs_redis`."""
    with Server("redis", **access.options({})) as server:
        yield server


@pytest.fixture(scope="session")
def any_server(request: pytest.FixtureRequest) -> Server:
    """A shared server, for tests that need only one; it may hold keys of other tests."""
    first: Server = request.getfixturevalue(f"{FLAVOURS[0]}_server")
    return first


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(flavour, marks=needs_redis if flavour == "redis" else ())
        for flavour in FLAVOURS
    ],
)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    """Each supported server in turn."""
    chosen: Flavour = request.param
    return chosen


@pytest.fixture
def server(flavour: Flavour, request: pytest.FixtureRequest) -> Server:
    """A running, empty server, shared by the tests that do not change its configuration or state."""
    shared: Server = request.getfixturevalue(f"{flavour}_server")
    with shared.client() as client:
        client.flushall()
    return shared


@pytest.fixture
def raw(server: Server) -> Iterator[Client]:
    """A plain client of the server; it returns bytes."""
    with server.client() as client:
        yield client


@pytest.fixture
def key_prefix() -> str:
    """A prefix that no other test uses."""
    return f"{uuid.uuid4().hex[:12]}:"


@pytest.fixture
def private_server(flavour: Flavour, access: Access) -> Iterator[StartServer]:
    """Start servers that the test may configure, kill and freeze."""
    servers: list[Server] = []
    chosen = flavour

    def start(flavour: Flavour | None = None, **options: Unpack[ServerOptions]) -> Server:
        server = Server(flavour or chosen, **access.options(options))
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def proxy(access: Access) -> Iterator[StartProxy]:
    """Start proxies between the test and a server, which inject network faults."""
    proxies: list[Proxy] = []

    def start(server: Server, *, tls: ssl.SSLContext | None = None) -> Proxy:
        proxy = Proxy(server, tls=tls or access.proxy_tls(server))
        proxies.append(proxy)
        proxy.start()
        return proxy

    yield start
    for proxy in proxies:
        proxy.close()
