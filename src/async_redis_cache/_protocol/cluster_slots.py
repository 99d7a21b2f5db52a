"""The slots of a cluster: which one a key is in, whose they are, and what is said while they move."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from async_redis_cache._common.endpoint import Address
from async_redis_cache._common.failures import ServerReply
from async_redis_cache._common.hosts import parse_address, parse_port_number

from .command import Command, CommandArgs, UnexpectedReplyError

__all__ = ["CLUSTER_SLOTS", "MOST_NODES", "SLOTS", "Asking", "SlotRange", "has_hash_tag", "slot_of"]

SLOTS: Final = 16384
MOST_NODES: Final = 1000
"""As many as a cluster is meant to have. Each is given connections, so one reply must not name any number."""


class SlotRange(NamedTuple):
    """Slots that one master has.

    Attributes:
        first: the first of them.
        last: the last of them.
        master: where it is.
        replicas: where those are that have copies.
    """

    first: int
    last: int
    master: Address
    replicas: tuple[Address, ...]

    @property
    def size(self) -> int:
        """How many they are."""
        return self.last + 1 - self.first


def slot_of(key: bytes) -> int:
    """The slot of a key: of what stands between its first braces, if anything does."""
    return crc_hqx(_hashed(key), 0) % SLOTS


def has_hash_tag(prefix: bytes) -> bool:
    """Whether all keys that begin so are in one slot."""
    return _hashed(prefix) != prefix


def _hashed(key: bytes) -> bytes:
    begin = key.find(b"{") + 1
    if begin:
        end = key.find(b"}", begin)
        if end > begin:
            return key[begin:end]
    return key


class _ClusterSlots(Command):
    """What a node knows of the slots. The argument is the host that it was dialed at."""

    is_write = False
    # As many ranges as there are slots, each with some nodes.
    reply_limit = (4 * 1024 * 1024, 400_000)

    def key(self, argument: str) -> None:
        """Any node may be asked."""

    def encode(self, arguments: Sequence[str]) -> list[CommandArgs]:
        return [(b"CLUSTER", b"SLOTS")] * len(arguments)

    def parse_replies(self, arguments: Sequence[str], replies: Sequence[Any]) -> Sequence[Any]:
        return [
            reply if isinstance(reply, ServerReply) else _ranges(reply, host)
            for host, reply in zip(arguments, replies, strict=True)
        ]

    def retry_safe(self, argument: str, answer: Any) -> bool:
        return True


def _ranges(reply: Any, host: str) -> tuple[SlotRange, ...]:
    """What a node says, if that can be: each slot is said to be at one place at the most."""
    ranges: list[SlotRange] = []
    places: set[Address] = set()
    free = 0
    try:
        for first, last, *nodes in sorted(reply):
            if not (type(first) is type(last) is int and free <= first <= last < SLOTS):
                raise UnexpectedReplyError
            free = last + 1
            master, *replicas = (_address(node, host) for node in nodes)
            places.update((master, *replicas))
            ranges.append(SlotRange(first, last, master, tuple(replicas)))
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise UnexpectedReplyError from error
    if len(places) > MOST_NODES:
        raise UnexpectedReplyError
    return tuple(ranges)


def _address(node: Sequence[Any], host: str) -> Address:
    """Where a node is; where it does not say, at the host that was asked."""
    name, port = node[0], node[1]
    return (
        (host, parse_port_number(port)) if name in {None, b"", b"?"} else parse_address(name, port)
    )


class Asking(Command):
    """A verb for a node that a slot is being moved to, which has it not yet but for who says ASKING.

    Args:
        plain: the verb.
    """

    def __init__(self, plain: Command) -> None:
        self.wrapped = plain
        self.is_write = plain.is_write
        self.reply_limit = plain.reply_limit
        self.script = plain.script

    def key(self, argument: Any) -> bytes | None:
        """As of the verb."""
        return self.wrapped.key(argument)

    def encode(self, arguments: Sequence[Any]) -> list[CommandArgs]:
        """Each command of the verb with that in front, which holds for one alone."""
        return [command for plain in self.wrapped.encode(arguments) for command in (_ASKING, plain)]

    def parse_replies(self, arguments: Sequence[Any], replies: Sequence[Any]) -> Sequence[Any]:
        """As of the verb."""
        return self.wrapped.parse_replies(arguments, replies[1::2])

    def retry_safe(self, argument: Any, answer: Any) -> bool:
        """As of the verb."""
        return self.wrapped.retry_safe(argument, answer)


_ASKING: Final[CommandArgs] = (b"ASKING",)
CLUSTER_SLOTS: Final[Command] = _ClusterSlots()
