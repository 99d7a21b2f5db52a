"""This library measured beside its peers, in one run and on one server.

`python -m tests.benchmarks` from the root of the project; `--help` names the choices.
"""

import sys
from pathlib import Path

_TESTS = str(Path(__file__).parents[1])
if _TESTS not in sys.path:
    # As pytest does it: `harness` is found from the tests' directory.
    sys.path.insert(0, _TESTS)
