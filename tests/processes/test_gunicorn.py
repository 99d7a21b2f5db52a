"""Gunicorn with WSGI applications: one uses the synchronous API, one an event loop for each request."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Self

import pytest

from async_redis_cache import RedisCache
from harness import Server
from harness.addresses import LOOPBACK, free_port
from harness.figures import report
from harness.programs import PROGRAMS, Program
from harness.run_length import scaled
from harness.waiting import wait_until

pytest_plugins = ["program_fixtures"]
pytestmark = pytest.mark.depends_on()

KEYS = 32
ANSWER_SECONDS = 60.0

Serve = Callable[[list[str]], AbstractContextManager[tuple[Program, int]]]


class Clients:
    """Threads that ask without pause, and count what they get."""

    def __init__(self, port: int, number: int) -> None:
        self.seen: Counter[str] = Counter()
        self.pids: set[int] = set()
        self._port = port
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(number)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def more(self, answers: int = 20) -> None:
        """Wait for so many more right answers."""
        enough = self.seen["right"] + answers
        wait_until(lambda: self.seen["right"] >= enough, ANSWER_SECONDS)

    def _ask(self, number: int) -> None:
        while not self._over.is_set():
            number = (number + 7) % KEYS
            connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=ANSWER_SECONDS)
            try:
                connection.request("GET", f"/{number}")
                response = connection.getresponse()
                body = response.read()
            except TimeoutError:
                self.seen["hung"] += 1
            except (OSError, http.client.HTTPException):
                self.seen["cut"] += 1  # By the end of a worker: no answer is no wrong one.
            else:
                self._judge(response.status, body)
            finally:
                connection.close()

    def _judge(self, status: int, body: bytes) -> None:
        if status != 200:
            self.seen[f"status {status}"] += 1
            return
        answer = json.loads(body)
        self.seen["right" if answer["right"] else "wrong"] += 1
        self.pids.add(answer["pid"])


@pytest.fixture
def gunicorn(environment: dict[str, str], any_server: Server, tmp_path: Path) -> Serve:
    """Serve an application with these arguments; gives the program and its port."""

    @contextmanager
    def serve(arguments: list[str]) -> Generator[tuple[Program, int]]:
        port = free_port()
        command = [sys.executable, "-m", "gunicorn", *arguments]
        command += ["--chdir", str(PROGRAMS), "--bind", f"{LOOPBACK}:{port}", "--workers", "2"]
        command += ["--graceful-timeout", "5", "--log-level", "error"]
        command += ["--worker-tmp-dir", str(tmp_path), "--no-control-socket"]
        program = Program(
            command, environment | {"APP_CACHE_URL": any_server.url, "PYTHONWARNINGS": ""}
        )
        try:
            yield program, port
        finally:
            program.close()

    return serve


@pytest.fixture
def stored(any_server: Server) -> Iterator[None]:
    """What the application expects to find."""
    values = {str(number): f"value of {number}" for number in range(KEYS)}
    with RedisCache.from_url(any_server.url, key_prefix="gunicorn:", max_size=0) as cache:
        cache.store_many(None, values)
        yield


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("preload", [True, False], ids=["preload", "no preload"])
@pytest.mark.parametrize("worker", ["sync", "gthread"])
def test_workers_are_replaced(worker: str, preload: bool, gunicorn: Serve) -> None:
    """22. gunicorn workers receive HUP and SIGKILL, with and without --preload: 0 wrong results, 0 hanging workers."""
    arguments = ["wsgi_app:app", "--worker-class", worker]
    arguments += ["--threads", "4"] if worker == "gthread" else []
    arguments += ["--preload"] if preload else []
    with (
        gunicorn(arguments) as (program, port),
        Clients(port, 6) as clients,
    ):
        clients.more()
        for _ in range(scaled(1, 10)):
            os.kill(program.pid, signal.SIGHUP)
            before = set(clients.pids)
            wait_until(lambda before=before: clients.pids - before, ANSWER_SECONDS)  # type: ignore[misc]
            clients.more()
            os.kill(max(clients.pids - before), signal.SIGKILL)
            clients.more()
        started = time.monotonic()
        os.kill(program.pid, signal.SIGTERM)
        ended = program.wait()
        ending = time.monotonic() - started
    report(
        22,
        f"gunicorn {' '.join(arguments)}: {clients.seen['right']} correct results of "
        f"{len(clients.pids)} "
        f"workers, {clients.seen['wrong']} wrong, {clients.seen['hung']} hung, "
        f"ended after {ending:.1f} s",
        ending,
    )
    assert set(clients.seen) <= {"right", "cut"}
    assert ended.code == 0


def test_asynchronous_views_of_django(gunicorn: Serve) -> None:
    """With `any_loop`, views that have an event loop each share a cache, and the loads of their process."""
    arguments = ["django_views:application", "--worker-class", "gthread", "--threads", "4"]
    with gunicorn(arguments) as (program, port), Clients(port, 6) as clients:
        clients.more(200)
        os.kill(max(clients.pids), signal.SIGKILL)
        clients.more(100)
        os.kill(program.pid, signal.SIGTERM)
        ended = program.wait()
    assert set(clients.seen) <= {"right", "cut"}
    assert ended.code == 0
    assert "Traceback" not in ended.errors
