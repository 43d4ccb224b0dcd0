"""The device of the Triton kernels' tests: a GPU where there is one, else a CPU and Triton's interpreter."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: pip install 'headgate[gpu]'")


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def _quiet_interpreter() -> Iterator[None]:
    """The interpreter computes with numpy, which warns of NaN and infinity; a GPU doesn't."""
    with np.errstate(all="ignore"):
        yield
