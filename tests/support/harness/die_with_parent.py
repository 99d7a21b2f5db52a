"""Become a command that the kernel kills when the thread that started it ends.

A program of its own and no `preexec_fn`, which is unsafe beside threads and warned about from
Python 3.12 on. Usage: die_with_parent.py <pid of the parent> <command> [<argument> ...]
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

parent, *command = sys.argv[1:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
# The parent may have died before the line above; then no signal would ever come.
if os.getppid() != int(parent):
    sys.exit("the parent is gone")
os.execv(command[0], command)
