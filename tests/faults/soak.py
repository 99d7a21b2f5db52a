"""Serve traffic under injected faults for half an hour, and report leaks of memory, tasks and connections.

With `--page` the figures are written for docs/explanation/fault-injection.md, which shows them as pictures.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import msgspec

from harness import FLAVOURS, Server
from harness.soak import Soak

FIGURES = Path(__file__).parents[2] / "docs" / "faults" / "soak.json"
ROUND_SECONDS = 20
LOOKS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--server", choices=FLAVOURS, default="valkey")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--page", action="store_true", help=f"write {FIGURES.name}")
    asked = parser.parse_args()
    rounds = max(2, round(asked.seconds / ROUND_SECONDS))
    with Server(asked.server) as server:
        soak = Soak(server, asked.seed, interval=asked.seconds / LOOKS)
        found = soak.run(asked.seconds, rounds)
    told = {"server": asked.server, "seed": asked.seed, "date": time.strftime("%F")}
    figures = msgspec.json.encode(told | msgspec.to_builtins(found))
    if asked.page:
        FIGURES.parent.mkdir(exist_ok=True)
        FIGURES.write_bytes(msgspec.json.format(figures, indent=1) + b"\n")
    start, first, last = found.at_rest[0], found.at_rest[1], found.at_rest[-1]
    sys.stdout.write(
        f"seed {asked.seed}, {rounds} rounds in {last.seconds:.0f} s, {len(found.wrong)} wrong\n"
        f"calls {dict(found.codes)}\nfaults {dict(found.faults)}\n"
        f"at rest, before and after: {start.descriptors} and {last.descriptors} descriptors, "
        f"{start.tasks} and {last.tasks} tasks, {start.threads} and {last.threads} threads; "
        f"{first.resident / 1e6:.1f} MB after the first round, {last.resident / 1e6:.1f} MB at last, "
        f"{first.blocks} and {last.blocks} blocks\n"
    )
    if found.wrong or start.descriptors != last.descriptors or start.threads != last.threads:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
