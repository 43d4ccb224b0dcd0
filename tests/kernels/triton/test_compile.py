"""What the compiler makes of the kernels for an H100: no card is needed, and the interpreter checks none of it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="no Triton: pip install 'headgate[gpu]'")

from headgate.kernels.triton import schedule

SCRIPT = Path(__file__).parents[2] / "triton_compile.py"


def compile_all(run_fresh: Callable[..., str], folder: Path, *arguments: str) -> list[dict]:
    run = f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    source = f"import runpy, sys; sys.argv = {['triton_compile', *arguments]}; {run}"
    printed = run_fresh(source, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(folder))
    return [json.loads(line) for line in printed.splitlines()]


@pytest.mark.parametrize(("dtype", "bucket"), [("bf16", "few"), ("bf16", "many"), ("fp32", "some")])
def test_every_kernel_compiles_and_fits(dtype: str, bucket: str, run_fresh: Callable[..., str], tmp_path: Path) -> None:
    found = compile_all(run_fresh, tmp_path, dtype, bucket)
    assert len({entry["kernel"] for entry in found}) == len(found) == 9
    for entry in found:
        assert entry["shared"] <= schedule.SHARED_MEMORY_BYTES, entry
        assert entry["registers"] <= 255, entry
        # An epilogue may put a few registers away; in a loop over the sum it would be kilobytes.
        assert entry["stack"] <= 256, entry
    products = [entry for entry in found if "config" in entry]
    assert len(products) == 5
    # Below 64 rows per tile Hopper's own products have too few rows, and Ampere's run.
    assert {entry["wgmma"] for entry in products if entry["kernel"] != "weight_gradient"} == {bucket != "few"}
