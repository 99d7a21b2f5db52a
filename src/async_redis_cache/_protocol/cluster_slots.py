"""The slots of a cluster: the slot of a key, the nodes that serve the slots, and ASKING while slots move."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from async_redis_cache._common.endpoint import Address
from async_redis_cache._common.failures import ServerReply
from async_redis_cache._common.hosts import parse_address, parse_port_number

from .command import Command, CommandArgs, UnexpectedReplyError

__all__ = ["CLUSTER_SLOTS", "MAX_NODES", "SLOTS", "Asking", "SlotRange", "has_hash_tag", "slot_of"]

SLOTS: Final = 16384
MAX_NODES: Final = 1000
"""The recommended maximum of a cluster. Each node gets connections, so the number in a reply is limited."""


class SlotRange(NamedTuple):
    """A range of slots that one master serves.

    Attributes:
        first: the first slot.
        last: the last slot.
        master: the address of the master.
        replicas: the addresses of its replicas.
    """

    first: int
    last: int
    master: Address
    replicas: tuple[Address, ...]

    @property
    def size(self) -> int:
        """The number of slots."""
        return self.last + 1 - self.first


def slot_of(key: bytes) -> int:
    """The slot of a key: of the hash tag between its first braces, if there is one."""
    return crc_hqx(_hashed(key), 0) % SLOTS


def has_hash_tag(prefix: bytes) -> bool:
    """Whether all keys with this prefix are in one slot."""
    return _hashed(prefix) != prefix


def _hashed(key: bytes) -> bytes:
    begin = key.find(b"{") + 1
    if begin:
        end = key.find(b"}", begin)
        if end > begin:
            return key[begin:end]
    return key


class _ClusterSlots(Command):
    """The slots and their nodes, as one node reports them. The argument is the host that it was connected at."""

    is_write = False
    # Up to one range per slot, each with some nodes.
    reply_limit = (4 * 1024 * 1024, 400_000)

    def routing_key(self, argument: str) -> None:
        """None: any node can reply."""

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
    """Validate a reply: each slot must be in at most one range."""
    ranges: list[SlotRange] = []
    addresses: set[Address] = set()
    next_slot = 0
    try:
        for first, last, *nodes in sorted(reply):
            if not (type(first) is type(last) is int and next_slot <= first <= last < SLOTS):
                raise UnexpectedReplyError
            next_slot = last + 1
            master, *replicas = (_address(node, host) for node in nodes)
            addresses.update((master, *replicas))
            ranges.append(SlotRange(first, last, master, tuple(replicas)))
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise UnexpectedReplyError from error
    if len(addresses) > MAX_NODES:
        raise UnexpectedReplyError
    return tuple(ranges)


def _address(node: Sequence[Any], host: str) -> Address:
    """The address of a node; if the reply does not contain the host, it is the host of the replying node."""
    name, port = node[0], node[1]
    return (
        (host, parse_port_number(port)) if name in {None, b"", b"?"} else parse_address(name, port)
    )


class Asking(Command):
    """A command for a node that is importing the key's slot, which serves it only after ASKING.

    Args:
        wrapped: the command.
    """

    def __init__(self, wrapped: Command) -> None:
        self.wrapped = wrapped
        self.is_write = wrapped.is_write
        self.reply_limit = wrapped.reply_limit
        self.script = wrapped.script

    def routing_key(self, argument: Any) -> bytes | None:
        """The key of the wrapped command."""
        return self.wrapped.routing_key(argument)

    def encode(self, arguments: Sequence[Any]) -> list[CommandArgs]:
        """ASKING before each command, since it applies only to the next one."""
        return [part for command in self.wrapped.encode(arguments) for part in (_ASKING, command)]

    def parse_replies(self, arguments: Sequence[Any], replies: Sequence[Any]) -> Sequence[Any]:
        """The answers of the wrapped command."""
        return self.wrapped.parse_replies(arguments, replies[1::2])

    def retry_safe(self, argument: Any, answer: Any) -> bool:
        """As for the wrapped command."""
        return self.wrapped.retry_safe(argument, answer)


_ASKING: Final[CommandArgs] = (b"ASKING",)
CLUSTER_SLOTS: Final[Command] = _ClusterSlots()
