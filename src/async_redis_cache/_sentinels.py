"""Sentinels: who knows which server is the master, and tells when it is another.

They are asked at each connect, all at once, and the first who knows is believed; what it names is then
asked itself whether it is a master, for a sentinel that was away may not know better. And one of them is
listened to all the time: a master that was cut off goes on to acknowledge writes which nobody will ever see
again, and only they know.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from ._dialer import Dialer, see_it_lead
from ._errors import CacheUnavailable
from ._failures import Failure
from ._journal import Condition
from ._links import Keeper, Pace
from ._options import Options
from ._takeover import Connection
from ._uri import Address, Endpoint

__all__ = ["Announcements", "MasterDialer", "ReplicaDialer"]

_SECOND: Final = 1000
_FAILED_OVER: Final = b"+switch-master"
T = TypeVar("T")

_UNKNOWN: Final = Failure(
    CacheUnavailable,
    "CONNECT_FAILED",
    "no sentinel can be asked, or knows a server that will do",
    passing=True,
)


class _Dialers:
    """Several dialers; who has made a connection also ends it."""

    def __init__(self, dialers: Sequence[Dialer]) -> None:
        self._dialers = list(dialers)
        self._dialed: dict[Connection, Dialer] = {}

    async def sweep(self) -> None:
        """Close what is kept of attempts that came to nothing."""
        for dialer in {*self._dialers, *self._dialed.values()}:
            await dialer.sweep()

    async def hang_up(self, connection: Connection) -> None:
        """Give back a connection that is not to be used again."""
        await self._dialed.pop(connection).hang_up(connection)

    async def _by(self, dialer: Dialer) -> Connection | Failure:
        outcome = await dialer.dial()
        if not isinstance(outcome, Failure):
            self._dialed[outcome] = dialer
        return outcome


class MasterDialer(_Dialers):
    """Connects to the master that the sentinels name.

    Args:
        endpoint: the sentinels, the master's name, and who we are there.
        options: time limits, TLS, and who we are to the sentinels.
        met: called with where it is, at each connection.
        protocol: which version of RESP the connections speak.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        options: Options,
        *,
        met: Callable[[Address], None],
        protocol: int = 2,
    ) -> None:
        super().__init__(_sentinel_dialers(endpoint, options))
        self._endpoint = endpoint
        self._options = options
        self._met = met
        self._protocol = protocol
        self._timeout = options.connect_timeout / _SECOND
        self._known: tuple[Address, Dialer] | None = None

    async def dial(self) -> Connection | Failure:
        """A connection to the master, or why there is none."""
        try:
            async with asyncio.timeout(self._timeout):
                place = await self._master()
                if place is None:
                    return _UNKNOWN
                outcome = await self._by(self._dialer_to(place))
        except TimeoutError:
            return _UNKNOWN
        if not isinstance(outcome, Failure):
            self._met(place)
        return outcome

    def _dialer_to(self, place: Address) -> Dialer:
        if self._known is None or self._known[0] != place:
            endpoint = self._endpoint.at(place)
            dialer = Dialer(endpoint, self._options, protocol=self._protocol, see=see_it_lead)
            self._known = place, dialer
        return self._known[1]

    async def _master(self) -> Address | None:
        """Where it is, by the first sentinel that knows."""
        command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._endpoint.master)
        return await _first_answer(self._dialers, command, _address_in)


class ReplicaDialer(_Dialers):
    """Connects to one of the replicas that the sentinels find well, by chance.

    Args:
        endpoint: as for `MasterDialer`.
        options: as for `MasterDialer`.
    """

    def __init__(self, endpoint: Endpoint, options: Options) -> None:
        super().__init__(_sentinel_dialers(endpoint, options))
        self._endpoint = endpoint
        self._options = options
        self._timeout = options.connect_timeout / _SECOND

    async def dial(self) -> Connection | Failure:
        """A connection to a replica, or why there is none."""
        command = ("SENTINEL", "REPLICAS", self._endpoint.master)
        try:
            async with asyncio.timeout(self._timeout):
                places = await _first_answer(self._dialers, command, _replicas_in)
                if not places:
                    return _UNKNOWN
                place = random.choice(places)  # noqa: S311  no secret
                return await self._by(Dialer(self._endpoint.at(place), self._options))
        except TimeoutError:
            return _UNKNOWN


class Announcements(Keeper):
    """A link to one of the sentinels, on which they tell of failovers.

    Args:
        endpoint: the sentinels, and the master's name.
        options: as for `MasterDialer`.
        moved: called with where the master is now.
        pace: how the link is kept.
        told: where it is told when it is lost, and armed again.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        options: Options,
        moved: Callable[[Address], None],
        pace: Pace,
        told: Condition,
    ) -> None:
        super().__init__(
            _AnyOf(_sentinel_dialers(endpoint, options, protocol=3)),
            _Failovers(endpoint.master.encode(), moved),
            order=(b"SUBSCRIBE", _FAILED_OVER),
            agreed=None,
            pace=pace,
            told=told,
        )


class _Failovers:
    """Reads what sentinels announce."""

    def __init__(self, master: bytes, moved: Callable[[Address], None]) -> None:
        self._master = master
        self._moved = moved

    def told(self, message: list[Any]) -> None:
        """Pass on where the master is now, if it is ours."""
        if message[0] != b"message" or message[1] != _FAILED_OVER:
            return
        name, _, _, host, port = message[2].split()
        if name == self._master:
            self._moved((host.decode(), int(port)))

    def alive_until(self, moment: float) -> None:
        """All that happened was told."""

    def silent(self) -> None:
        """A failover that is missed is noticed by who connects, or is refused a change."""


class _AnyOf(_Dialers):
    """Connects to one of several servers: to the next one where the last was in vain, or is lost."""

    async def dial(self) -> Connection | Failure:
        """A connection to the one whose turn it is."""
        self._dialers.append(self._dialers.pop(0))
        return await self._by(self._dialers[-1])


def _sentinel_dialers(endpoint: Endpoint, options: Options, *, protocol: int = 2) -> list[Dialer]:
    sentinel = Endpoint(
        tls=options.sentinel_tls,
        username=options.sentinel_username or None,
        password=options.sentinel_password or None,
    )
    return [Dialer(sentinel.at(place), options, protocol=protocol) for place in endpoint.seeds]


async def _first_answer(
    sentinels: Sequence[Dialer], command: Sequence[str], read: Callable[[Any], T | None]
) -> T | None:
    """What the first sentinel says that says something."""
    pending = {asyncio.ensure_future(sentinel.ask(*command)) for sentinel in sentinels}
    try:
        while pending:
            answered, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for one in answered:
                if (answer := read(one.result())) is not None:
                    return answer
        return None
    finally:
        for one in pending:
            one.cancel()
        if pending:
            await asyncio.wait(pending)


def _address_in(answer: Any) -> Address | None:
    if not isinstance(answer, list):
        return None
    try:
        host, port = answer  # pyright: ignore[reportUnknownVariableType]
        return host.decode(), int(port)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType, reportUnknownArgumentType]
    except (AttributeError, ValueError):
        return None


def _replicas_in(answer: Any) -> list[Address] | None:
    """Those that follow the master, and answer."""
    if not isinstance(answer, list):
        return None
    flats: list[Any] = answer  # pyright: ignore[reportUnknownVariableType]
    try:
        replicas: list[dict[bytes, bytes]] = [
            dict(zip(flat[::2], flat[1::2], strict=True)) for flat in flats
        ]
        return [
            (replica[b"ip"].decode(), int(replica[b"port"]))
            for replica in replicas
            if replica[b"flags"] == b"slave" and replica[b"master-link-status"] == b"ok"
        ]
    except (AttributeError, LookupError, TypeError, ValueError):
        return None
