"""Calls that arrive at random moments, from a process of their own.

Run by path, with the rate per second, the seconds and a seed; writes the moment of each arrival
(`time.monotonic`, eight bytes) to standard output when it has come. A process, because a timer of
the measured loop would hand out arrivals in clumps of a millisecond, which flatters whoever merges
calls, and because the schedule must not wait for a loop that falls behind.
"""

import os
import random
import struct
import sys
import time

STAMP = struct.Struct("d")
PIPE_BUF = 512
"""Bytes that POSIX lets a pipe take in one piece, so that a stamp is never torn."""


def main() -> None:
    rate, seconds, seed = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    draw = random.Random(seed)
    at = time.monotonic() + 0.1
    end = at + seconds
    at += draw.expovariate(rate)
    while at < end:
        ahead = at - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
        now = time.monotonic()
        due = bytearray()
        while at <= now and at < end and len(due) < PIPE_BUF:
            due += STAMP.pack(at)
            at += draw.expovariate(rate)
        os.write(sys.stdout.fileno(), due)


if __name__ == "__main__":
    main()
