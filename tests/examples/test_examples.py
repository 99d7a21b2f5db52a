"""The examples work: each is started as a program and used from outside."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
from aiohttp import ClientSession, web

from harness import StartServer

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
STARTING = 300.0
"""Seconds for a program to start and to answer, on a busy machine."""


def environment(**changes: str) -> dict[str, str]:
    """Ours, without a cache that the developer may have configured for their own services."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CACHE_")}
    return {**kept, "PYTHONWARNINGS": "error", **changes}


def run_example(name: str, **changes: str) -> str:
    """What an example that ends by itself prints."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=STARTING,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@contextmanager
def uvicorn(app: str, **changes: str) -> Generator[str]:
    """An application served on a free port; its address.

    The port listens before the server starts, so the first request waits for it.
    """
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        descriptor = listening.fileno()
        command = [sys.executable, "-m", "uvicorn", app, "--app-dir", str(EXAMPLES)]
        with subprocess.Popen(
            [*command, "--fd", str(descriptor), "--log-level", "warning"],
            env=environment(**changes),
            pass_fds=[descriptor],
        ) as process:
            try:
                yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            finally:
                process.terminate()


def test_fastapi_example_asks_its_database_once() -> None:
    """After the first read, the cache answers until the value is written."""
    with (
        uvicorn("fastapi_app:app") as address,
        httpx.Client(base_url=address, timeout=STARTING) as client,
    ):
        product = {"id": 7, "name": "Product 7", "price": 10.5}
        for _ in range(3):
            assert client.get("/products/7").json() == product
        assert client.get("/health").json() == {"cache": "up", "queries": 1, "hits": 2}

        dearer = product | {"price": 12.0}
        assert client.put("/products", json=dearer).json() == dearer
        assert client.get("/products/7").json() == dearer
        assert client.get("/products/1000").status_code == 404


def test_fastapi_example_stores_its_catalogue() -> None:
    """The whole response is served from the cache, also as 304, until a product is written."""
    with (
        uvicorn("fastapi_app:app") as address,
        httpx.Client(base_url=address, timeout=STARTING) as client,
    ):
        first, second = client.get("/products"), client.get("/products")
        assert "stored" in first.headers["cache-status"]
        # The server may end the first response while it is being stored.
        assert re.search("hit|collapsed", second.headers["cache-status"])
        assert second.json() == first.json()
        conditional = {"If-None-Match": first.headers["etag"]}
        assert client.get("/products", headers=conditional).status_code == 304
        assert client.get("/health").json()["queries"] == 1

        changed = {"id": 7, "name": "Product 7", "price": 12.0}
        client.put("/products", json=changed).raise_for_status()
        assert changed in client.get("/products").json()


def test_fastapi_example_serves_without_its_cache(tmp_path: Path) -> None:
    """The service starts and answers while the server is unreachable, and reports it."""
    with (
        uvicorn("fastapi_app:app", CACHE_URL=f"unix://{tmp_path}/nobody.sock") as address,
        httpx.Client(base_url=address, timeout=STARTING) as client,
    ):
        assert client.get("/products/7").json()["name"] == "Product 7"
        assert len(client.get("/products").json()) == 99
        assert client.put("/products", json={"id": 7, "name": "x", "price": 1}).is_success
        assert client.get("/health").json() == {"cache": "CacheUnavailable", "queries": 2}


async def test_aiohttp_example_renders_a_report_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports come from the cache, alone and several at once, until they are forgotten."""
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    import aiohttp_app

    rendered: list[str] = []

    async def render(city: str) -> dict[str, object]:
        rendered.append(city)
        return {"city": city}

    monkeypatch.setattr(aiohttp_app, "render_report", render)
    runner = web.AppRunner(aiohttp_app.make_app("embedded://"))
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0]
        async with ClientSession(f"http://{host}:{port}") as client:
            for _ in range(2):
                async with client.get("/reports/Oslo") as answer:
                    assert await answer.json() == {"city": "Oslo"}
            assert rendered == ["Oslo"]

            cities = [("city", city) for city in ("Oslo", "Rome", "Kyiv")]
            async with client.get("/reports", params=cities) as answer:
                assert sorted(await answer.json()) == ["Kyiv", "Oslo", "Rome"]
            assert rendered == ["Oslo", "Rome", "Kyiv"]

            for removed in (True, False):
                async with client.delete("/reports/Rome") as answer:
                    assert await answer.json() == {"removed": removed}
    finally:
        await runner.cleanup()


def test_legacy_example_quotes_from_the_cache() -> None:
    """Sixteen threads share one cache; all but the first quotes of a price come from it."""
    printed = run_example("legacy_service.py")
    said = re.search(
        r"^(\d+) quotes on 16 threads in .*\n(\d+) from the cache in (\d+) round trips$",
        printed,
        re.MULTILINE,
    )
    assert said is not None
    quotes, hits, round_trips = map(int, said.groups())
    # At worst each thread requests each of the 20 prices before it is loaded.
    assert quotes - 16 * 20 <= hits <= quotes - 20
    assert round_trips <= 2 * quotes


def test_pip_services_example_finds_its_login_in_the_store(private_server: StartServer) -> None:
    """Address and login reach the component through discovery and credential store."""
    server = private_server(acl={"default": "off", "shop": "on >pass-word ~catalogue:* +@all"})
    printed = run_example(
        "pip_services_app.py",
        CACHE_URL=server.login_url("", ""),
        CACHE_USERNAME="shop",
        CACHE_PASSWORD="pass-word",
    )
    assert printed.splitlines()[-1] == "1 of 2 from the cache"


def test_pip_services_example_runs_without_a_server() -> None:
    """Where no server is configured, a private one runs along."""
    assert run_example("pip_services_app.py").splitlines()[-1] == "1 of 2 from the cache"
