"""Redirections in a cluster: MOVED and ASK.

A node that does not have the slot of a key names the node that has it (MOVED), or, while the slot is moving, the node
that already has the key (ASK). The request is sent there, within the same deadline.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from async_redis_cache._common.failures import Failure
from async_redis_cache._protocol.cluster_slots import Asking

from .batcher import Batcher
from .cluster_nodes import ClusterNodes
from .request import Request

__all__ = ["Redirects"]

_MAX_REDIRECTS: Final = 8
"""Of one attempt of a request."""


class Redirects:
    """The `Router` of a cluster.

    Args:
        refresh_soon: requests a new slot map.
    """

    def __init__(self, refresh_soon: Callable[[], None]) -> None:
        self._refresh_soon = refresh_soon
        self._nodes: ClusterNodes

    def use_nodes(self, nodes: ClusterNodes) -> None:
        """Set the nodes, which are made after their router."""
        self._nodes = nodes

    def follow_redirect(self, sender: Batcher, request: Request, failure: Failure) -> bool:
        """Send a request to the node that its MOVED or ASK error names. Return False where that is not possible.

        It is not possible without an address, after eight redirections, after `stop`, and with too many nodes.
        """
        request.redirects += 1
        if failure.address is None or request.redirects > _MAX_REDIRECTS:
            return False
        host, port = failure.address
        address = (host or self._nodes.host_of(sender), port)
        if not self._nodes.may_redirect_to(address):
            return False
        node = self._nodes.node_at(address)
        # The node may be new, with no slot but one that is moving, so that no slot map lists it yet.
        self._nodes.track(address)
        key = request.command.routing_key(request.argument)
        if failure.code == "ASK":
            self._nodes.moves += 1
            request.command = Asking(request.command)
        elif key is not None:
            self._nodes.record_move(key, node)
            self._refresh_soon()
        node.batcher.enqueue(request)
        return True

    def owner_of(self, request: Request) -> Batcher:
        """Return the batcher of the node that has the slot of the request's key, for its next attempt."""
        if isinstance(request.command, Asking):
            request.command = request.command.wrapped
        return self._nodes.node_of(request.command.routing_key(request.argument)).batcher
