"""Compile the Triton experts for an H100, without one, and say what the compiler made of them: a JSON line each.

Run as a program, in a process of its own: the interpreter that the tests use takes the compiler's place in theirs.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from headgate.kernels.triton import activation_gradient, combine, finish, product, sums, up, weight_gradient

D, F, E = 2048, 1024, 64  # OLMoE
TARGET = GPUTarget("cuda", 90, 32)
DUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
ROWS = {"expert_offsets": "*i64", "row_weights": "*fp32", "slot_of_row": "*i64", "token_of_row": "*i64"}
COUNTS = {"num_experts": "i32", "num_rows": "i32", "num_buckets": "i32"}
FUNCTION = {
    "F": F,
    "GATED": True,
    "INTERLEAVED": False,
    "ACTIVATION": "silu",
    "WEIGHS_INPUT": False,
    "clamp": None,
    "slope": 1.0,
    "up_offset": 0.0,
}


def sources(dtype: str, bucket: str) -> dict[str, tuple[Any, dict[str, str], dict[str, Any]]]:
    """Each kernel with the types of what varies and the values of what does not; what neither names is None."""
    pointer, stride = f"*{dtype}", "i32"
    tuned = {"EXPERTS": E, "PRECISION": "tf32" if dtype == "fp32" else "half", "BUCKET": bucket, "SPLITS": 1}
    along_k = {"stride_e": stride, "stride_n": stride}  # with stride_k = 1
    along_n = {"stride_e": stride, "stride_k": stride}
    up_types = {"x": pointer, "up": pointer, "hidden": pointer, "x_stride": stride}
    gradient_types = dict.fromkeys(("dy", "down", "up_rows", "d_up_rows", "hidden"), pointer)
    product_types = {"rows_in": pointer, "weight": pointer, "out": pointer}
    weight_types = {"left": pointer, "right": pointer, "out": pointer, "left_stride": stride, "right_stride": stride}
    flags = {"GATHERS_LEFT": False, "GATHERS_RIGHT": True, "WEIGHTED": False}
    down, dx = {"SUMMED": F, "COLUMNS": D, "stride_k": 1}, {"SUMMED": 2 * F, "COLUMNS": D, "stride_n": 1}
    return {
        "up": (up.up_kernel, up_types | along_k, {**tuned, **FUNCTION, "D": D, "stride_k": 1}),
        "down": (product.product_kernel, product_types | along_k, {**tuned, **down}),
        "dx": (product.product_kernel, product_types | along_n, {**tuned, **dx}),
        "activation_gradient": (
            activation_gradient.activation_gradient_kernel,
            {**gradient_types, **along_n, "dy_stride": stride, "weight_parts": "*fp32"},
            {**tuned, **FUNCTION, "D": D, "stride_n": 1},
        ),
        "weight_gradient": (
            weight_gradient.weight_gradient_kernel,
            weight_types,
            {**tuned, **flags, "A": 2 * F, "B": D},
        ),
    }


def small_sources(dtype: str) -> dict[str, tuple[Any, dict[str, str], dict[str, Any]]]:
    """The kernels that nothing tunes, with every optional part."""
    pointer, stride = f"*{dtype}", "i32"
    sum_types = {"dy": pointer, "x": pointer, "down_bias": pointer, "dy_stride": stride, "x_stride": stride}
    up_types = {"partial": "*fp32", "up_bias": pointer, "hidden": pointer, "up_rows": pointer}
    order = {"row_order": "*i64", "token_offsets": "*i64", "source_stride": stride}
    return {
        "finish": (
            finish.finish_kernel,
            up_types,
            {**FUNCTION, "SPLITS": 4, "EXPERTS": E, "BLOCK_M": 16, "BLOCK_N": 128, "clamp": 7.0, "WEIGHS_INPUT": True},
        ),
        "combine": (
            combine.combine_kernel,
            {"rows": pointer, "source": pointer, "y": pointer, **order},
            {"D": D, "WEIGHTED": True, "SPLITS": 2, "BLOCK_D": 512},
        ),
        "bias_gradient": (
            sums.bias_gradient_kernel,
            {"values": pointer, "out": pointer, "stride": stride},
            {"C": D, "GATHERS": True, "WEIGHTED": True, "BLOCK_R": 32, "BLOCK_C": 128},
        ),
        "row_weight_gradient": (
            sums.row_weight_gradient_kernel,
            {"parts": "*fp32", "out": "*fp32", **sum_types},
            {"D": D, "PARTS": 8, "HAS_IDENTITY": True, "EXPERTS": E, "BLOCK_P": 8, "BLOCK_D": 1024},
        ),
    }


def compile_kernel(
    kernel: Any, types: dict[str, str], values: dict[str, Any], options: dict[str, int]
) -> dict[str, Any]:
    """Registers, bytes of stack (where registers spill), bytes of shared memory, and whether Hopper's products run."""
    types = {name: kind for name, kind in {**ROWS, **COUNTS, **types}.items() if name in kernel.arg_names}
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    constants = {name: values.get(name) for name in kernel.arg_names if name not in types}
    aligned = [i for i, name in enumerate(kernel.arg_names) if types.get(name, "")[:1] == "*" or "stride" in name]
    attributes = {(i,): [["tt.divisibility", 16]] for i in aligned if kernel.arg_names[i] in types}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=TARGET, options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        usage = subprocess.run([DUMP, "-res-usage", cubin.name], capture_output=True, text=True, check=True)
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage.stdout + usage.stderr).groups()  # type: ignore[union-attr]
    has_wgmma = "wgmma" in compiled.asm["ptx"]
    return {"registers": int(registers), "stack": int(stack), "shared": compiled.metadata.shared, "wgmma": has_wgmma}


def main(dtype: str, bucket: str, *, is_everything: bool) -> None:
    """Compile a bucket's first configurations, or all of them, and the kernels that nothing tunes."""
    for name, (kernel, types, values) in sources(dtype, bucket).items():
        configs = kernel.early_config_prune((), (), **values)
        for config in configs if is_everything else configs[:1]:
            options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
            found = compile_kernel(kernel.fn, types, {**values, **config.kwargs}, options)
            print(json.dumps({"kernel": name, "config": str(config), **found}), flush=True)
    for name, (kernel, types, values) in small_sources(dtype).items():
        print(json.dumps({"kernel": name, **compile_kernel(kernel, types, values, {"num_warps": 4})}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], is_everything="--all" in sys.argv)
