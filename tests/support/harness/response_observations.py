"""What docs/explanation/http-peers.md compares: each row of its table is an observation of a cache over HTTP."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

from .programs import PROGRAMS, Program
from .proxy import Proxy
from .response_services import Reply
from .response_visits import (
    OBSERVATIONS,
    Visiting,
    echoing,
    observe,
    replying,
    row,
    yes_if,
)
from .responses import scope_of
from .waiting import wait_until

__all__ = ["OBSERVATIONS", "observe"]

COLD = 20
"""Requests that arrive together."""
PATIENCE_SECONDS = 1.0
"""What does not happen within this time does not happen: other handlers that run, a stream that is passed on."""


@row("user B gets the response to user A's `Authorization`")
async def authorization(visiting: Visiting) -> str:
    async with visiting(echoing("authorization")) as visit:
        ada, bob = [await visit.get(authorization=f"Bearer {name}") for name in ("ada", "bob")]
        assert ada.json() == "Bearer ada"
        return yes_if(bob.text == ada.text)


@row("user B gets the response to user A's `Cookie`")
async def cookies(visiting: Visiting) -> str:
    async with visiting(echoing("cookie")) as visit:
        ada, bob = [await visit.get(cookie=f"session={name}") for name in ("ada", "bob")]
        assert ada.json() == "session=ada"
        return yes_if(bob.text == ada.text)


@row("user B gets the `Set-Cookie` of user A's response")
async def set_cookie(visiting: Visiting) -> str:
    read, _ = replying(Reply(1, {"set-cookie": "session=ada"}), Reply(2))
    async with visiting(read) as visit:
        ada, bob = await visit.get(), await visit.get()
        assert ada.headers["set-cookie"] == "session=ada"
        return yes_if("set-cookie" in bob.headers)


@row("a response with `Cache-Control: private` is stored")
async def private(visiting: Visiting) -> str:
    read, runs = replying(Reply(1, {"cache-control": "private, max-age=60"}))
    async with visiting(read) as visit:
        await visit.get()
        await visit.get()
        return yes_if(len(runs) == 1)


@row("a response with `Cache-Control: no-store` is stored")
async def no_store(visiting: Visiting) -> str:
    read, runs = replying(Reply(1, {"cache-control": "no-store"}))
    async with visiting(read) as visit:
        await visit.get()
        await visit.get()
        return yes_if(len(runs) == 1)


@row("the `Vary` of a response is respected")
async def vary(visiting: Visiting) -> str:
    async with visiting(echoing("accept-language", vary="Accept-Language")) as visit:
        found = [(await visit.get(accept_language=tongue)).json() for tongue in ("en", "el")]
        return yes_if(found == ["en", "el"])


@row("two hosts share a stored response")
async def hosts(visiting: Visiting) -> str:
    async with visiting(echoing("host")) as visit:
        one, two = [await visit.get(host=host) for host in ("one", "two")]
        assert one.json() == "one"
        return yes_if(two.text == one.text)


@row("a link made of `X-Forwarded-Host` is served to others (cache poisoning)")
async def poisoning(visiting: Visiting) -> str:
    async with visiting(echoing("x-forwarded-host")) as visit:
        await visit.get(x_forwarded_host="evil")
        return yes_if((await visit.get()).json() == "evil")


@row(f"runs of the handler for {COLD} cold requests in a process")
async def collapsing(visiting: Visiting) -> str:
    runs: list[int] = []
    release = asyncio.Event()

    async def read(fields: Mapping[str, str]) -> Reply:
        runs.append(1)
        await release.wait()
        return Reply(1)

    async with visiting(read) as visit:
        asked = [asyncio.ensure_future(visit.get()) for _ in range(COLD)]
        await asyncio.to_thread(_settle, lambda: len(runs))
        release.set()
        assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}
    return str(len(runs))


@row(f"runs of the handler for {COLD} cold requests in two processes")
async def collapsing_processes(visiting: Visiting) -> str:
    read, _ = replying(Reply(1))
    async with visiting(read) as visit:
        return await asyncio.to_thread(_cold_processes, visit.cache, visit.link)


def _settle(count: Callable[[], int]) -> None:
    """Wait until all cold requests run the handler, or no other one begins to."""
    seen = 0

    def has_grown() -> bool:
        return count() > seen

    wait_until(has_grown)
    with suppress(AssertionError):
        while (seen := count()) < COLD:
            wait_until(has_grown, PATIENCE_SECONDS)


def _cold_processes(cache: str, link: Proxy) -> str:
    command = [sys.executable, str(PROGRAMS / "http_cold.py"), cache, link.url, str(COLD // 2)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": ""}
    with ExitStack() as stack:
        client = stack.enter_context(link.server.client())
        programs = [Program(command, environment) for _ in range(2)]
        for program in programs:
            stack.callback(program.close)
        for program in programs:
            assert program.line() == "ready"
        for program in programs:
            program.say("go")
        _settle(lambda: int(client.get("runs") or 0))
        client.rpush("release", *range(COLD))
        assert [program.line() for program in programs] == ["1", "1"]
        return str(int(client.get("runs") or 0))


@row("an invalidation during a run of the handler leaves the old body stored")
async def racing(visiting: Visiting) -> str:
    value = "old"
    is_running, release = asyncio.Event(), asyncio.Event()

    async def read(fields: Mapping[str, str]) -> Reply:
        found = value
        is_running.set()
        await release.wait()
        return Reply(found)

    def write() -> None:
        nonlocal value
        value = "new"

    async with visiting(read, write=write) as visit:
        reading = asyncio.ensure_future(visit.get())
        await is_running.wait()
        assert (await visit.client.request(*visit.invalidation)).is_success
        release.set()
        await reading
        return yes_if((await visit.get()).json() == "old")


@row("PUT of a URI invalidates what GET of it has stored")
async def unsafe_method(visiting: Visiting) -> str:
    read, runs = replying(Reply(1))
    async with visiting(read) as visit:
        await visit.get()
        assert (await visit.client.put("/page")).is_success
        await visit.get()
        return yes_if(len(runs) == 2)


@row("the fields of a stored response are served")
async def fields(visiting: Visiting) -> str:
    read, runs = replying(Reply(1, {"x-total-count": "7"}), Reply(2))
    async with visiting(read) as visit:
        answers = [await visit.get(), await visit.get()]
        assert len(runs) == 1
        return yes_if(answers[1].headers.get("x-total-count") == "7")


@row("a 404 is served as 200 to the next client")
async def status(visiting: Visiting) -> str:
    read, _ = replying(Reply(1, status=404))
    async with visiting(read) as visit:
        assert (await visit.get()).status_code == 404
        return yes_if((await visit.get()).status_code == 200)


@row("binary bodies are stored and served exactly")
async def binary(visiting: Visiting) -> str:
    content = bytes(range(256))
    read, runs = replying(Reply(content))
    async with visiting(read, has_values=False) as visit:
        first, second = await visit.get(), await visit.get()
        assert first.content == content
        if (
            second.content != content
            or second.headers["content-type"] != (first.headers["content-type"])
        ):
            return "no"
        return "yes" if len(runs) == 1 else "not stored"


@row("`ETag` of a response that has none")
async def etag(visiting: Visiting) -> str:
    read, _ = replying(Reply(1))
    async with visiting(read) as visit:
        await visit.get()
        found = (await visit.get()).headers.get("etag")
        if found is None:
            return "none"
        weak = re.fullmatch(r'(W/)?"[\x21\x23-\x7e]*"', found)
        return "malformed" if weak is None else "weak" if weak[1] else "strong"


async def conditional(visiting: Visiting, condition: str) -> str:
    """Return the status of a conditional request for a stored response with an ETag of the handler."""
    read, _ = replying(Reply(1, {"etag": '"v1"'}))
    async with visiting(read) as visit:
        await visit.get()
        current = (await visit.get()).headers.get("etag", "")
        return str((await visit.get(if_none_match=condition.format(current))).status_code)


row("`If-None-Match` with the `ETag`")(partial(conditional, condition="{}"))
row("`If-None-Match` with a list that has the `ETag`")(partial(conditional, condition='"a", {}'))
row("`If-None-Match: *`")(partial(conditional, condition="*"))


@row("`Age` of a stored response")
async def age(visiting: Visiting) -> str:
    read, _ = replying(Reply(1))
    async with visiting(read) as visit:
        await visit.get()
        return yes_if((await visit.get()).headers.get("age", "").isdigit())


@row("HEAD of a page that GET has stored")
async def head(visiting: Visiting) -> str:
    read, runs = replying(Reply("text"))
    async with visiting(read) as visit:
        whole = await visit.get()
        found = await visit.client.head("/page")
        assert found.status_code == 200
        if len(runs) == 2:
            return "runs the handler"
        assert found.headers["content-length"] == whole.headers["content-length"]
        return "the stored fields"


@row("a part of a page (206) is served to a request for the whole")
async def partial_content(visiting: Visiting) -> str:
    async def read(fields: Mapping[str, str]) -> Reply:
        if "range" in fields:
            return Reply("ab", {"content-range": "bytes 0-3/8"}, status=206)
        return Reply("abcdef")

    async with visiting(read) as visit:
        assert (await visit.get(range="bytes=0-3")).status_code == 206
        return yes_if((await visit.get()).json() == "ab")


@row("a range of a page that is stored")
async def ranges(visiting: Visiting) -> str:
    read, runs = replying(Reply("abcdef"), Reply("ab", status=206))
    async with visiting(read) as visit:
        whole = await visit.get()
        found = await visit.get(range="bytes=0-3")
        if len(runs) == 2:
            return "runs the handler"
        assert found.text == whole.text
        return "the whole page"


async def streaming(visiting: Visiting, path: str) -> str:
    """Return whether the first part of an event stream is sent before the next one exists."""
    is_sent, is_complete = asyncio.Event(), asyncio.Event()
    early: list[bool] = []

    async def events() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        with suppress(TimeoutError):
            await asyncio.wait_for(is_sent.wait(), PATIENCE_SECONDS)
        early.append(is_sent.is_set())
        yield b"data: 2\n\n"

    async def send(message: dict[str, Any]) -> None:
        if message.get("body"):
            is_sent.set()
        if message["type"] == "http.response.body" and not message.get("more_body"):
            is_complete.set()

    messages = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await is_complete.wait()
        return {"type": "http.disconnect"}

    async def read(fields: Mapping[str, str]) -> Reply:
        return Reply(events())

    async with visiting(read, has_values=False) as visit:
        try:
            await visit.app(scope_of(path), receive, send)
        except TypeError:
            return "raises TypeError"
    return "passed on" if early == [True] else "when it ends"


row("an event stream of a route that is opted in")(partial(streaming, path="/page"))
row("an event stream of a route that is not opted in")(partial(streaming, path="/plain"))


@row("while the server is unreachable")
async def unreachable(visiting: Visiting) -> str:
    read, _ = replying(Reply(1))
    async with visiting(read) as visit:
        await visit.get()
        visit.link.refuse()
        visit.link.cut()
        status = (await visit.client.get("/page?other")).status_code
        visit.link.heal()
        return "runs the handler" if status == 200 else f"{status}"


@row("a request with `Cache-Control: no-cache` runs the handler")
async def no_cache(visiting: Visiting) -> str:
    read, runs = replying(Reply(1))
    async with visiting(read) as visit:
        await visit.get()
        await visit.get(cache_control="no-cache")
        return yes_if(len(runs) == 2)


@row("`stale-if-error` of a response")
async def stale_if_error(visiting: Visiting) -> str:
    fresh = Reply(1, {"cache-control": "max-age=1, stale-if-error=60"})
    read, runs = replying(fresh, Reply(2, status=503))
    async with visiting(read, ttl=1) as visit:
        found = await visit.get()
        while len(runs) < 2:
            await asyncio.sleep(0.05)
            found = await visit.get()
        return "respected" if found.status_code == 200 else "ignored"


@row("`stale-while-revalidate` of a response")
async def stale_while_revalidate(visiting: Visiting) -> str:
    runs: list[int] = []
    release = asyncio.Event()

    async def read(fields: Mapping[str, str]) -> Reply:
        runs.append(1)
        if len(runs) > 1:
            # A cache that revalidates in the background answers meanwhile.
            with suppress(TimeoutError):
                await asyncio.wait_for(release.wait(), PATIENCE_SECONDS)
        return Reply(len(runs), {"cache-control": "max-age=1, stale-while-revalidate=60"})

    async with visiting(read, ttl=1) as visit:
        found = await visit.get()
        while len(runs) < 2:
            await asyncio.sleep(0.05)
            found = await visit.get()
        release.set()
        return "respected" if found.json() == 1 else "ignored"
