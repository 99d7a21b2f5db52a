"""Fixtures of all tests: real servers, a faulty network, and the hunt for what is left over."""

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
from harness.fault_report import FaultReport
from harness.leaks import open_descriptors, tasks_left
from harness.loops import blocked, chosen_loops
from harness.setups import selected

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterator

# The same examples in each run, so that a failure is one of the change; random ones in the long form.
hypothesis.settings.register_profile("default", deadline=None, derandomize=True)
hypothesis.settings.register_profile(
    "ci", deadline=None, max_examples=200, print_blob=True, derandomize=True
)
hypothesis.settings.register_profile("long", deadline=None, max_examples=5_000)
# A mutant is killed by the first failure: nobody wants to see the smallest.
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
    group.addoption("--faults-file", metavar="FILE", help="write that table there, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    stack = ExitStack()
    stack.enter_context(chosen_loops())
    config.add_cleanup(stack.close)
    if "debug" in LOOP:
        # Otherwise pytest-asyncio tells its loops the contrary.
        config.option.asyncio_debug = True
    report = FaultReport(
        alone=bool(config.getoption("--faults")), file=config.getoption("--faults-file")
    )
    config.pluginmanager.register(report, "faults")
    config.addinivalue_line(
        "markers", "no_leaks: after the test no file descriptor is open that was not open before"
    )
    config.addinivalue_line(
        "markers", "depends_on(*dimensions): of api, server, storage, near and loop, what matters"
    )
    config.addinivalue_line(
        "markers", "not_with(*choices, reason): not to be run with these of ARC_LOOP or ARC_SERVERS"
    )
    if ("CI" in os.environ or "tls" in SERVERS) and installed("redis") is None:
        raise pytest.UsageError("CI and TLS need Redis, and redis-server is not on the path")


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
    """Put the checks around everything else a test uses, so that fixtures may clean up first."""
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
    """A certificate authority, with certificates for a server and a client."""
    return Certificates.create(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session", autouse=True)
def access(certificates: Certificates) -> Iterator[Access]:
    """How the servers of the fixtures below are reached."""
    chosen = Access(certificates)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in chosen.environment.items():
            patch.setenv(name, value)
        yield chosen


@pytest.fixture(scope="session")
def valkey_server(access: Access) -> Iterator[Server]:
    """The Valkey that the tests of this process share."""
    with Server("valkey", **access.options({})) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(access: Access) -> Iterator[Server]:
    """The Redis that the tests of this process share; for tests marked `needs_redis`."""
    with Server("redis", **access.options({})) as server:
        yield server


@pytest.fixture(scope="session")
def any_server(request: pytest.FixtureRequest) -> Server:
    """The server for tests to which one is as good as the other; it may have keys."""
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
    """Every server the library is promised to work with, one after the other."""
    chosen: Flavour = request.param
    return chosen


@pytest.fixture
def server(flavour: Flavour, request: pytest.FixtureRequest) -> Server:
    """A running server without any keys, for tests that do no harm to it."""
    shared: Server = request.getfixturevalue(f"{flavour}_server")
    with shared.client() as client:
        client.flushall()
    return shared


@pytest.fixture
def raw(server: Server) -> Iterator[Client]:
    """A look at the server from outside; it gives bytes."""
    with server.client() as client:
        yield client


@pytest.fixture
def key_prefix() -> str:
    """A prefix that no other test uses."""
    return f"{uuid.uuid4().hex[:12]}:"


@pytest.fixture
def private_server(flavour: Flavour, access: Access) -> Iterator[StartServer]:
    """Servers that the test may kill, freeze and configure as it likes."""
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
    """Networks between the test and a server, that fail when they are told to."""
    proxies: list[Proxy] = []

    def start(server: Server, *, tls: ssl.SSLContext | None = None) -> Proxy:
        proxy = Proxy(server, tls=tls or access.proxy_tls(server))
        proxies.append(proxy)
        proxy.start()
        return proxy

    yield start
    for proxy in proxies:
        proxy.close()
