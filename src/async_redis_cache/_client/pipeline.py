"""One trip to the server and back, and the calls that make it together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from async_redis_cache._common.failures import UNKNOWN, Failure, ServerReply, failure_of
from async_redis_cache._connection.connection import Wire
from async_redis_cache._connection.resp_protocol import pack
from async_redis_cache._protocol.command import MisreadError, Verb

__all__ = ["PERSONAL", "Call", "Exchange"]

PERSONAL: Final = frozenset({"NOPERM", "WRONGTYPE", "CROSSSLOT"})
"""Refusals of one key, for which the server refuses a merged command as a whole."""

_NONSENSE: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What comes of reading a reply that has the right form, and cannot be."""


class Call:
    """A question or a change, from the moment it is asked until its callers have their answer."""

    __slots__ = (
        "_joined",
        "alone",
        "argument",
        "callers",
        "deadline",
        "future",
        "hops",
        "hurried",
        "keys",
        "reason",
        "retries",
        "size",
        "uncertain",
        "verb",
    )

    def __init__(  # noqa: PLR0917  made once a call, where names are half its price
        self,
        verb: Verb,
        argument: Any,
        size: int,
        keys: int,
        deadline: float,
        retries: int,
        future: asyncio.Future[Any],
    ) -> None:
        self.verb = verb
        self.argument = argument
        self.size = size
        self.keys = keys
        self.deadline = deadline
        self.retries = retries
        self.future = future
        self.callers = 1
        """How many were given a future of it."""
        self.hops = 0
        """How often a node of a cluster has sent it to another, since it last waited."""
        self.hurried = False
        """Whether it may take less time than other calls."""
        self.alone = False
        """Whether it must not share an exchange, since the last one was refused for somebody."""
        self.uncertain = False
        """Whether an earlier try was sent whose reply is lost."""
        self.reason: Failure | None = None
        """Why the last try failed."""
        self._joined: list[asyncio.Future[Any]] | None = None

    def join(self, future: asyncio.Future[Any]) -> None:
        """Answer this future too."""
        if self._joined is None:
            self._joined = []
        self._joined.append(future)
        self.callers += 1

    def is_settled(self) -> bool:
        """Whether nobody waits for it: answered, failed, or all its callers have left."""
        return self.future.done() and (
            self._joined is None or all(one.done() for one in self._joined)
        )

    def answer(self, value: Any) -> None:
        """Give every caller this answer."""
        future = self.future
        if not future.done():
            future.set_result(value)
        if self._joined is not None:
            for one in self._joined:
                if not one.done():
                    one.set_result(value)

    def fail(self, failure: Failure) -> None:
        """Give every caller an error of its own."""
        if self.uncertain:
            failure = UNKNOWN._replace(server=failure.server)
        for one in (self.future, *(self._joined or ())):
            if not one.done():
                one.set_exception(failure.error())


class Exchange:
    """Calls under way on one wire.

    Args:
        calls: all that travel; those of one verb may share a command.
        answered: told when the replies are dealt, with the calls that the server refused and why.
        broken: told when the connection ended first.
    """

    def __init__(
        self,
        calls: list[Call],
        answered: Callable[[Exchange, list[tuple[Call, Failure]]], None],
        broken: Callable[[Exchange, Failure], None],
    ) -> None:
        self.calls = calls
        self._answered = answered
        self._broken = broken
        self._groups: dict[Verb, list[Call]] = {}
        self._shares: list[tuple[Verb, list[Call], list[Any], int]] = []
        groups = self._groups
        keys = 0
        deadline = 0.0
        asks = True
        for call in calls:
            keys += call.keys
            # Not `max`, which takes ten times as long: caches do this all day.
            if call.deadline > deadline:  # noqa: PLR1730
                deadline = call.deadline
            verb = call.verb
            if verb in groups:
                groups[verb].append(call)
            else:
                groups[verb] = [call]
                asks = asks and not verb.changes
        self.keys = keys
        self.deadline = deadline
        self.asks = asks

    def send_on(self, wire: Wire) -> None:
        """Write all commands at once."""
        packed: list[bytes] = []
        more = Verb.reply_size
        for verb, calls in self._groups.items():
            arguments = [call.argument for call in calls]
            commands = verb.commands(arguments)
            packed.extend(map(pack, commands))
            self._shares.append((verb, calls, arguments, len(commands)))
            if verb.reply_size is not more:
                more = max(more, verb.reply_size)
        wire.send(b"".join(packed), len(packed), self, keys=self.keys, more=more)

    def answered(self, replies: list[Any]) -> bool:
        """Deal the replies to the calls, unless they cannot be replies to these commands."""
        dealt: list[tuple[Verb, list[Call], Sequence[Any], bool]] = []
        start = 0
        try:
            for verb, calls, arguments, count in self._shares:
                share = replies[start : start + count]
                merged = verb.merges and len(calls) > 1
                dealt.append((verb, calls, verb.answers(arguments, share), merged))
                start += count
        except (MisreadError, *_NONSENSE):
            return False
        refused: list[tuple[Call, Failure]] = []
        for verb, calls, answers, merged in dealt:
            for call, answer in zip(calls, answers, strict=True):
                if isinstance(answer, ServerReply):
                    failure = failure_of(answer, partial(verb.commands, [call.argument]))
                    if merged and failure.code in PERSONAL:
                        # Once more, which is no retry: it may be another's key.
                        call.alone = True
                        call.retries += 1
                        failure = failure._replace(passing=True)
                    refused.append((call, failure))
                elif call.uncertain and not verb.conclusive(call.argument, answer):
                    call.fail(UNKNOWN)
                else:
                    call.answer(answer)
        self._answered(self, refused)
        return True

    def broken(self, failure: Failure) -> None:
        """The connection ended before all replies were here."""
        self._broken(self, failure)
