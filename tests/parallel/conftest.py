"""The ranks that the tests of this folder run on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from parallel.ranks import Ranks


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Call `ranks.run(num_ranks, function, *args)`; see `Ranks.run`."""
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        pool = Ranks(Path(folder))
        yield pool
        pool.stop()
