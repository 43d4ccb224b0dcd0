"""The kernels of route and plan compiled for an H100, which needs no GPU: types, registers and shared memory."""

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

# In a process of its own: where there is no GPU, this one has Triton's interpreter instead of its compiler.
COMPILE = """
import re
import subprocess
import tempfile
from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from headgate.kernels.triton import plan, route

DUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
INTEGERS = {"num_tokens", "num_experts", "d_model", "x_stride", "width", "num_parts", "num_slots", "run", "num_runs"}
POINTERS = {
    "counts_at": "*i32", "totals_at": "*i32", "ids_at": "*i64", "order_at": "*i64", "offsets_at": "*i64",
    "drop_reason_at": "*u8", "x_at": "*bf16", "weight_at": "*bf16", "bias_at": "*bf16",
}
FLOATS = {"parts_at", "selection_bias_at", "logits_at", "scores_at", "combine_weights_at"}


def compile_kernel(kernel, constants, **options):
    names = [parameter.name for parameter in kernel.params]
    def type_of(name):
        if name in constants:
            return "constexpr"
        if name in INTEGERS:
            return "i32"
        if name in ("epsilon", "scale"):
            return "fp32"
        return "*fp32" if name in FLOATS else POINTERS.get(name, "*i64")
    signature = {name: type_of(name) for name in names}
    # What Triton sees of real tensors: addresses and widths that 16 divides.
    aligned = {"x_at", "weight_at", "parts_at", "d_model", "x_stride", "width"}
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in names if name in aligned}
    places = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, places, attributes)
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(built.asm["cubin"])
        usage = subprocess.run([DUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    stack = int(re.search(r"STACK:(\\d+)", usage)[1])
    assert stack == 0, (kernel.__name__, constants, "registers spill", usage)
    assert built.metadata.shared <= 227 * 1024, (kernel.__name__, built.metadata.shared)
    return built.asm["ptx"]


PRODUCTS = {"IS_WIDE": False, "BLOCK_T": 64, "BLOCK_E": 128, "BLOCK_D": 64}
assert "wgmma" in compile_kernel(route._multiply_parts, PRODUCTS, num_stages=3, num_warps=8)
SMALL = {"IS_WIDE": False, "BLOCK_T": 16, "BLOCK_E": 16, "BLOCK_D": 128}
assert "mma.sync" in compile_kernel(route._multiply_parts, SMALL, num_stages=3, num_warps=4)
WIDE = {"IS_WIDE": True, "BLOCK_T": 64, "BLOCK_E": 128, "BLOCK_D": 32}
assert "tf32" not in compile_kernel(route._multiply_parts, WIDE, num_stages=3, num_warps=8)

DECIDE = {
    "NUM_EXPERTS": 64, "TOP_K": 8, "LOGITS": tl.float32, "SCORE": "softmax", "INNER": tl.float32, "OUTER": tl.float32,
    "SELECT_ON_LOGITS": False, "NUM_GROUPS": 0, "NUM_KEPT": 0, "GROUP_COUNTED": 0, "GROUP_SIZE": 64, "MASK_ZERO": False,
    "NORMALISE": "none", "NORM_ORDER": 1.0, "CLAMP_NORM": False, "IS_ALONE": True,
    "BLOCK_T": 64, "BLOCK_E": 64, "BLOCK_K": 8, "BLOCK_G": 1,
}
DEEPSEEK = {
    "NUM_EXPERTS": 256, "BLOCK_E": 256, "BLOCK_T": 32, "SCORE": "sigmoid", "NUM_GROUPS": 8, "NUM_KEPT": 4,
    "GROUP_COUNTED": 2, "GROUP_SIZE": 32, "BLOCK_G": 8, "NORMALISE": "sum",
}
WIDEST = {
    "NUM_EXPERTS": 512, "BLOCK_E": 512, "BLOCK_T": 16, "TOP_K": 16, "BLOCK_K": 16, "SCORE": "sqrt_softplus",
    "NORMALISE": "sum", "NORM_ORDER": 3.0, "LOGITS": tl.bfloat16, "INNER": tl.bfloat16, "OUTER": tl.bfloat16,
    "IS_ALONE": False,
}
for constants in (
    DECIDE | {"bias_at": None, "selection_bias_at": None}, DECIDE | DEEPSEEK | {"bias_at": None}, DECIDE | WIDEST
):
    compile_kernel(route._decide, constants, num_warps=8)

for columns, step in ((64, 64), (512, 8)):
    sizes = {"NUM_BUCKETS": columns, "COLUMNS": columns, "STEP": step}
    compile_kernel(plan._count_runs, sizes)
    compile_kernel(plan._place_slots, sizes | {"TOP_K": 8})
    alone = dict.fromkeys(("counts_at", "totals_at", "token_of_row_at", "row_order_at"))
    compile_kernel(plan._place_slots, sizes | alone | {"TOP_K": 0})
compile_kernel(plan._scan_runs, {"NUM_BUCKETS": 64, "ROWS": 64, "COLUMNS": 32})
print("compiled")
"""


def test_for_an_h100_without_spills(run_fresh, tmp_path):
    environment = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    assert run_fresh(COMPILE, **environment).strip() == "compiled"
