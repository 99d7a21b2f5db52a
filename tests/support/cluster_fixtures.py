"""A cluster shared by the tests of one module: starting one takes seconds.

A test module takes the fixtures by `pytest_plugins = ["cluster_fixtures"]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.clusters import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Flavour


@pytest.fixture(scope="module")
def shared_cluster(flavour: Flavour) -> Iterator[Cluster]:
    """Three masters, which no test stops; slots that a test has moved stay where they are."""
    with Cluster(flavour) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    """The shared cluster, emptied."""
    for node in shared_cluster.masters():
        shared_cluster.client(node).flushall()
    return shared_cluster
