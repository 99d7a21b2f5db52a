"""One trip to the server and back, and the calls that make it together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from async_redis_cache._common.failures import (
    UNKNOWN,
    Failure,
    ServerReply,
    failure_of,
    is_script_unknown,
    refuses_evalsha,
)
from async_redis_cache._connection.connection import RedisConnection, pack
from async_redis_cache._protocol.command import Command, UnexpectedReplyError, as_evalsha

__all__ = ["PER_KEY_ERRORS", "Pipeline", "Request", "ScriptCache"]

PER_KEY_ERRORS: Final = frozenset({"NOPERM", "WRONGTYPE", "CROSSSLOT"})
"""Refusals of one key, for which the server refuses a merged command as a whole."""

_PARSE_ERRORS: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What comes of reading a reply that has the right form, and cannot be."""


class Request:
    """A question or a change, from the moment it is asked until its callers have their answer."""

    __slots__ = (
        "_waiters",
        "argument",
        "command",
        "deadline",
        "future",
        "isolated",
        "keys",
        "maybe_executed",
        "needs_source",
        "reason",
        "redirects",
        "retries",
        "short_deadline",
        "size",
        "waiters",
    )

    def __init__(  # noqa: PLR0917  made once a call, where names are half its price
        self,
        command: Command,
        argument: Any,
        size: int,
        keys: int,
        deadline: float,
        retries: int,
        future: asyncio.Future[Any],
    ) -> None:
        self.command = command
        self.argument = argument
        self.size = size
        self.keys = keys
        self.deadline = deadline
        self.retries = retries
        self.future = future
        self.waiters = 1
        """How many were given a future of it."""
        self.redirects = 0
        """How often a node of a cluster has sent it to another, since it last waited."""
        self.short_deadline = False
        """Whether it may take less time than other calls."""
        self.isolated = False
        """Whether it must not share an exchange, since the last one was refused for somebody."""
        self.maybe_executed = False
        """Whether an earlier try was sent whose reply is lost."""
        self.needs_source = False
        """Whether it must be sent as EVAL: the server has refused its EVALSHA, and executed nothing."""
        self.reason: Failure | None = None
        """Why the last try failed."""
        self._waiters: list[asyncio.Future[Any]] | None = None

    def add_waiter(self, future: asyncio.Future[Any]) -> None:
        """Answer this future too."""
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(future)
        self.waiters += 1

    def is_done(self) -> bool:
        """Whether nobody waits for it: answered, failed, or all its callers have left."""
        return self.future.done() and (
            self._waiters is None or all(one.done() for one in self._waiters)
        )

    def resolve(self, value: Any) -> None:
        """Give every caller this answer."""
        future = self.future
        if not future.done():
            future.set_result(value)
        if self._waiters is not None:
            for one in self._waiters:
                if not one.done():
                    one.set_result(value)

    def fail(self, failure: Failure) -> None:
        """Give every caller an error of its own."""
        if self.maybe_executed:
            failure = UNKNOWN._replace(server=failure.server)
        for one in (self.future, *(self._waiters or ())):
            if not one.done():
                one.set_exception(failure.error())


class ScriptCache:
    """The scripts that a server has executed, and so has in its script cache.

    A script is sent as EVAL, with its source, until the server has executed it, and as EVALSHA afterwards.
    The server may forget it at any time: when it restarts or fails over, after SCRIPT FLUSH, or to make
    room. It replies NOSCRIPT then, and the request is sent again as EVAL, which loads the script. SCRIPT
    LOAD is never sent: not every user may run it, and a proxy would send it to one of several servers.
    """

    __slots__ = ("_is_refused", "_sources")

    def __init__(self) -> None:
        self._sources: set[bytes] = set()
        self._is_refused = False

    def __contains__(self, source: bytes) -> bool:
        return source in self._sources

    def add(self, source: bytes) -> None:
        """Remember that the server has executed this script."""
        if not self._is_refused:
            self._sources.add(source)

    def rejects(self, source: bytes, reply: ServerReply) -> bool:
        """Whether an EVALSHA was not executed, so that it is to be sent again as EVAL.

        Args:
            source: the script.
            reply: the error reply. If it refuses EVALSHA itself, only EVAL is sent from now on.
        """
        if refuses_evalsha(reply):
            self._is_refused = True
            self._sources.clear()
        elif not is_script_unknown(reply):
            return False
        self._sources.discard(source)
        return True


class Pipeline:
    """Calls under way on one wire.

    Args:
        calls: all that travel; those of one verb may share a command.
        scripts: those that the server has in its script cache.
        answered: told when the replies are dealt, with the calls that the server refused and why.
        broken: told when the connection ended first.
    """

    def __init__(
        self,
        requests: list[Request],
        scripts: ScriptCache,
        answered: Callable[[Pipeline, list[tuple[Request, Failure]]], None],
        broken: Callable[[Pipeline, Failure], None],
    ) -> None:
        self.requests = requests
        self.not_executed: list[Request] = []
        """Those whose EVALSHA was rejected, to be sent again as EVAL."""
        self._scripts = scripts
        self._answered = answered
        self._broken = broken
        self._groups: dict[Command, list[Request]] = {}
        self._shares: list[tuple[Command, list[Request], list[Any], int, bytes | None]] = []
        groups = self._groups
        keys = 0
        deadline = 0.0
        asks = True
        for call in requests:
            keys += call.keys
            # Not `max`, which takes ten times as long: caches do this all day.
            if call.deadline > deadline:  # noqa: PLR1730
                deadline = call.deadline
            verb = call.command
            if verb in groups:
                groups[verb].append(call)
            else:
                groups[verb] = [call]
                asks = asks and not verb.is_write
        self.keys = keys
        self.deadline = deadline
        self.is_read_only = asks

    def send_on(self, wire: RedisConnection) -> None:
        """Write all commands at once."""
        packed: list[bytes] = []
        more = Command.reply_limit
        for verb, calls in self._groups.items():
            arguments = [call.argument for call in calls]
            commands = verb.encode(arguments)
            script = verb.script
            if script is not None:
                if script in self._scripts and not any(call.needs_source for call in calls):
                    commands = list(map(as_evalsha, commands))
                else:
                    script = None
            packed.extend(map(pack, commands))
            self._shares.append((verb, calls, arguments, len(commands), script))
            if verb.reply_limit is not more:
                more = max(more, verb.reply_limit)
        wire.send(b"".join(packed), len(packed), self, keys=self.keys, extra=more)

    def on_replies(self, replies: list[Any]) -> bool:
        """Deal the replies to the calls, unless they cannot be replies to these commands."""
        dealt: list[tuple[Command, list[Request], Sequence[Any], bool, bytes | None]] = []
        start = 0
        try:
            for verb, calls, arguments, count, by_digest in self._shares:
                share = replies[start : start + count]
                merged = verb.merges and len(calls) > 1
                answers = verb.parse_replies(arguments, share)
                dealt.append((verb, calls, answers, merged, by_digest))
                start += count
        except (UnexpectedReplyError, *_PARSE_ERRORS):
            return False
        refused: list[tuple[Request, Failure]] = []
        for verb, calls, answers, merged, by_digest in dealt:
            if verb.script is not None and not isinstance(answers[0], ServerReply):
                self._scripts.add(verb.script)
            for call, answer in zip(calls, answers, strict=True):
                if isinstance(answer, ServerReply):
                    if by_digest is not None and self._scripts.rejects(by_digest, answer):
                        call.needs_source = True
                        self.not_executed.append(call)
                        continue
                    failure = failure_of(answer, partial(verb.encode, [call.argument]))
                    if merged and failure.code in PER_KEY_ERRORS:
                        # Once more, which is no retry: it may be another's key.
                        call.isolated = True
                        call.retries += 1
                        failure = failure._replace(retryable=True)
                    refused.append((call, failure))
                elif call.maybe_executed and not verb.retry_safe(call.argument, answer):
                    call.fail(UNKNOWN)
                else:
                    call.resolve(answer)
        self._answered(self, refused)
        return True

    def on_connection_lost(self, failure: Failure) -> None:
        """The connection ended before all replies were here."""
        self._broken(self, failure)
