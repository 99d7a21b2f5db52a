"""Random faults one after the other, from a seed."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from random import Random

from harness.proxy import Proxy
from harness.servers import Server

LONGEST_SECONDS = 0.3
"""The duration of a fault and of the pause after it."""


class Storm(threading.Thread):
    """Injects faults and removes them until it is stopped."""

    def __init__(self, server: Server, network: Proxy, seed: int) -> None:
        super().__init__(name="storm", daemon=True)
        self.faults: Counter[str] = Counter()
        """The number of faults by kind."""
        self._server = server
        self._network = network
        self._chance = Random(seed)
        self._ending = threading.Event()
        self._kinds: dict[str, Callable[[], object]] = {
            "connections closed": network.cut,
            "connections reset": lambda: network.cut("rst"),
            "slow": lambda: network.delay(0.01, jitter=0.05),
            "in pieces": lambda: network.chop(7, direction="to_client"),
            "silent": network.black_hole,
            "half silent": lambda: network.black_hole("to_client"),
            "away": self._away,
            "reply cut": lambda: network.cut_replies_after(self._chance.randrange(50), "rst"),
            "replies lost": lambda: network.swallow_replies(self._chance.randint(1, 5)),
            "nonsense": lambda: network.replace_replies(b"nonsense\r\n", 2),
            "stray replies": lambda: network.inject(b"+OK\r\n"),
            "server stopped": server.freeze,
            "server killed": server.kill,
            "server restarted": server.restart,
        }

    def run(self) -> None:
        """Called by `start`."""
        while not self._ending.is_set():
            kind = self._chance.choice([*self._kinds])
            self.faults[kind] += 1
            self._kinds[kind]()
            self._ending.wait(self._chance.uniform(0, LONGEST_SECONDS))
            self._heal(kind)
            self._ending.wait(self._chance.uniform(0, LONGEST_SECONDS))

    def end(self) -> None:
        """Wait until there is no fault."""
        self._ending.set()
        self.join()

    def _away(self) -> None:
        self._network.refuse()
        self._network.cut("rst")

    def _heal(self, kind: str) -> None:
        if kind == "server killed":
            self._server.start()
        elif kind == "server stopped":
            self._server.thaw()
        self._network.heal()
        self._network.forget()
