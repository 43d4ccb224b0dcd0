"""What Triton's launcher and compiler make of Headgate's calls for an H100: no card is needed.

The interpreter that the other tests use checks none of it: types, registers, shared memory, and the search for the best
configuration.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="no Triton: pip install 'headgate[gpu]'")

from headgate.kernels.triton import schedule

SCRIPT = Path(__file__).parents[2] / "triton_compile.py"
EXPERTS = {"up_kernel", "product_kernel", "activation_gradient_kernel", "weight_gradient_kernel"}
ROUTE = {"_multiply_parts", "_decide", "_differentiate", "_count_runs", "_place_slots"}
SMALL = {"combine_kernel", "row_weight_gradient_kernel"}
SCENES = {
    "decode": {"up_kernel", "one_token_kernel", "product_kernel", "combine_kernel", "finish_kernel", *ROUTE},
    "prefill": EXPERTS | ROUTE | SMALL,
    "odd": EXPERTS | SMALL | {"bias_gradient_kernel"},
}


def test_every_kernel_compiles_and_fits(tmp_path: Path) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    # Some forty kernels, each a second of one core that may have other things to do.
    command = [sys.executable, str(SCRIPT)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr
    *kernels, first, more_rows, from_disk = [json.loads(line) for line in result.stdout.splitlines()]
    for scene, names in SCENES.items():
        assert {entry["kernel"] for entry in kernels if entry["scene"] == scene} <= names
    assert {entry["kernel"] for entry in kernels} == set.union(*SCENES.values())
    for entry in kernels:
        assert entry["shared"] <= schedule.SHARED_MEMORY_BYTES, entry
        assert entry["registers"] <= 255, entry
        # An epilogue may put a few registers away; in a loop over the sum it would be kilobytes. Of the router's
        # kernels none does, but for two registers of `_place_slots` that Triton 3.6 has no room for.
        assert entry["stack"] <= (8 if entry["kernel"] in ROUTE else 256), entry
        # Below 64 rows per tile Hopper's own products have too few rows, and Ampere's run.
        if entry["kernel"] in EXPERTS - {"weight_gradient_kernel"}:
            assert entry["wgmma" if entry["scene"] != "decode" else "mma.sync"], entry
    # Tokens keep their experts: no product of the router is in tf32, though one of the experts may be.
    assert not any(entry["tf32"] for entry in kernels if entry["kernel"] in ROUTE)
    assert {entry["scene"] for entry in kernels if entry["tf32"]} == {"odd"}

    configs = schedule.WEIGHT_GRADIENT.few
    assert first["untimed"] == 0  # under deterministic algorithms nothing is tuned
    # The last is the fastest by that clock. It stays for other numbers of rows, and for other processes.
    assert first["best"] == more_rows["best"] == from_disk["best"] == [str(configs[-1])]
    assert first["timed"] == more_rows["timed"] == from_disk["timed"] == len(configs)
