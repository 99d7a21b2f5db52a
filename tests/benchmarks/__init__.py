"""This library measured beside its peers, in one run and on one server.

`python -m tests.benchmarks` from the root of the project; `--help` names the choices.
"""

import sys
from pathlib import Path

_SUPPORT = str(Path(__file__).parents[1] / "support")
if _SUPPORT not in sys.path:
    # As pytest does it (`pythonpath` in pyproject.toml): `harness` is found from there.
    sys.path.insert(0, _SUPPORT)
