"""A pipeline: the commands of several requests, sent together on one connection, and their replies."""

from __future__ import annotations

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

from .request import Request

__all__ = ["PER_KEY_ERRORS", "Pipeline", "ScriptCache"]

PER_KEY_ERRORS: Final = frozenset({"NOPERM", "WRONGTYPE", "CROSSSLOT"})
"""Errors that concern one key, but fail a command with several keys as a whole."""

_PARSE_ERRORS: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""Raised while a reply is read that is valid RESP, but does not fit the command."""


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
    """The requests in flight on one connection.

    Args:
        requests: those to send. Requests with the same command may be merged into one.
        scripts: the scripts that the server has in its script cache.
        on_answered: called after all replies, with the requests that were refused, and why. All others are done.
        on_broken: called if the connection ends before.
    """

    is_draining = False
    """Whether its connection leads to a former master, and is not used again."""

    def __init__(
        self,
        requests: list[Request],
        scripts: ScriptCache,
        on_answered: Callable[[Pipeline, list[tuple[Request, Failure]]], None],
        on_broken: Callable[[Pipeline, Failure], None],
    ) -> None:
        self.requests = requests
        self.not_executed: list[Request] = []
        """Those whose EVALSHA was rejected, to be sent again as EVAL."""
        self._scripts = scripts
        self._on_answered = on_answered
        self._on_broken = on_broken
        self._groups: dict[Command, list[Request]] = {}
        self._sent: list[tuple[Command, list[Request], list[Any], int, bytes | None]] = []
        """By command: its requests, their arguments, the number of replies, and the script if sent as EVALSHA."""
        groups = self._groups
        keys = 0
        deadline = 0.0
        is_read_only = True
        for request in requests:
            keys += request.keys
            # Not `max`, which takes ten times as long in this hot path.
            if request.deadline > deadline:  # noqa: PLR1730
                deadline = request.deadline
            command = request.command
            if command in groups:
                groups[command].append(request)
            else:
                groups[command] = [request]
                is_read_only = is_read_only and not command.is_write
        self.keys = keys
        self.deadline = deadline
        self.is_read_only = is_read_only

    def send_on(self, connection: RedisConnection) -> None:
        """Write all commands at once."""
        packed: list[bytes] = []
        extra = Command.reply_limit
        for command, requests in self._groups.items():
            arguments = [request.argument for request in requests]
            encoded = command.encode(arguments)
            script = command.script
            if script is not None:
                if script in self._scripts and not any(
                    request.needs_source for request in requests
                ):
                    encoded = list(map(as_evalsha, encoded))
                else:
                    script = None
            packed.extend(map(pack, encoded))
            self._sent.append((command, requests, arguments, len(encoded), script))
            if command.reply_limit is not extra:
                extra = max(extra, command.reply_limit)
        connection.send(b"".join(packed), len(packed), self, keys=self.keys, extra=extra)

    def drain(self) -> list[Request]:
        """Begin to drain the connection; return the requests to read, whose replies are discarded here from now on."""
        self.is_draining = True
        reads: list[Request] = []
        for command, requests, *_ in self._sent:
            if not command.is_write:
                reads += (request for request in requests if not request.is_done())
                requests[:] = [_without_callers(request) for request in requests]
        self.requests = [request for request in self.requests if request.command.is_write]
        self.deadline = max(request.deadline for request in self.requests)
        return reads

    def on_replies(self, replies: list[Any]) -> bool:
        """Complete the requests. Return False, with none completed, if the replies do not fit the commands."""
        parsed: list[tuple[Command, list[Request], Sequence[Any], bool, bytes | None]] = []
        start = 0
        try:
            for command, requests, arguments, count, by_digest in self._sent:
                answers = command.parse_replies(arguments, replies[start : start + count])
                is_merged = command.merges and len(requests) > 1
                parsed.append((command, requests, answers, is_merged, by_digest))
                start += count
        except (UnexpectedReplyError, *_PARSE_ERRORS):
            return False
        refused: list[tuple[Request, Failure]] = []
        for command, requests, answers, is_merged, by_digest in parsed:
            if command.script is not None and not isinstance(answers[0], ServerReply):
                self._scripts.add(command.script)
            for request, answer in zip(requests, answers, strict=True):
                if isinstance(answer, ServerReply):
                    if by_digest is not None and self._scripts.rejects(by_digest, answer):
                        request.needs_source = True
                        self.not_executed.append(request)
                        continue
                    failure = failure_of(answer, partial(command.encode, [request.argument]))
                    if is_merged and failure.code in PER_KEY_ERRORS:
                        # The key of another request may be the cause. This is no retry.
                        request.isolated = True
                        request.retries += 1
                        failure = failure._replace(retryable=True)
                    refused.append((request, failure))
                elif request.maybe_executed and not command.retry_safe(request.argument, answer):
                    request.fail(UNKNOWN)
                else:
                    request.resolve(answer)
        self._on_answered(self, refused)
        return True

    def on_connection_lost(self, failure: Failure) -> None:
        """Report that the connection ended before all replies."""
        self._on_broken(self, failure)


def _without_callers(request: Request) -> Request:
    """Return a request in place of another, which is done whatever the reply is."""
    future = request.future.get_loop().create_future()
    future.cancel()
    command, argument, deadline = request.command, request.argument, request.deadline
    return Request(command, argument, request.size, request.keys, deadline, 0, future)
