"""Local clusters for the tests of the driver."""

from __future__ import annotations

import pytest

import cluster
from cluster import RetryPolicy


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Two workers, shared by the tests of a file."""
    scratch = tmp_path_factory.mktemp("scratch")
    with cluster.connect("local", relative_to=scratch, scratch=scratch, workers=2) as client:
        yield client


@pytest.fixture
def quick():
    """The usual policy without its long waits."""
    return RetryPolicy(first_delay=0.01, longest_delay=0.05)
