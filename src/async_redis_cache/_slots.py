"""The slots of a cluster: which one a key is in, whose they are, and what is said while they move."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from ._failures import ServerReply
from ._uri import Address
from ._verbs import Command, MisreadError, Verb

__all__ = ["SLOTS", "VIEW", "Asking", "SlotRange", "has_hash_tag", "slot_of"]

SLOTS: Final = 16384


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


class _View(Verb):
    """What a node knows of the slots. The argument is the host that it was dialed at."""

    changes = False

    def key(self, argument: str) -> None:
        """Any node may be asked."""

    def commands(self, arguments: Sequence[str]) -> list[Command]:
        return [(b"CLUSTER", b"SLOTS")] * len(arguments)

    def answers(self, arguments: Sequence[str], replies: Sequence[Any]) -> Sequence[Any]:
        return [
            reply if isinstance(reply, ServerReply) else _ranges(reply, host)
            for host, reply in zip(arguments, replies, strict=True)
        ]

    def conclusive(self, argument: str, answer: Any) -> bool:
        return True


def _ranges(reply: Any, host: str) -> tuple[SlotRange, ...]:
    try:
        return tuple(
            SlotRange(
                int(first),
                int(last),
                _address(master, host),
                tuple(_address(replica, host) for replica in replicas),
            )
            for first, last, master, *replicas in sorted(reply)
        )
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise MisreadError from error


def _address(node: Sequence[Any], host: str) -> Address:
    """Where a node is; where it does not say, at the host that was asked."""
    name = (node[0] or b"").decode()
    return (host if name in {"", "?"} else name, int(node[1]))


class Asking(Verb):
    """A verb for a node that a slot is being moved to, which has it not yet but for who says ASKING.

    Args:
        plain: the verb.
    """

    def __init__(self, plain: Verb) -> None:
        self.plain = plain
        self.changes = plain.changes

    def key(self, argument: Any) -> bytes | None:
        """As of the verb."""
        return self.plain.key(argument)

    def commands(self, arguments: Sequence[Any]) -> list[Command]:
        """Each command of the verb with that in front, which holds for one alone."""
        return [command for plain in self.plain.commands(arguments) for command in (_ASKING, plain)]

    def answers(self, arguments: Sequence[Any], replies: Sequence[Any]) -> Sequence[Any]:
        """As of the verb."""
        return self.plain.answers(arguments, replies[1::2])

    def conclusive(self, argument: Any, answer: Any) -> bool:
        """As of the verb."""
        return self.plain.conclusive(argument, answer)


_ASKING: Final[Command] = (b"ASKING",)
VIEW: Final[Verb] = _View()
