"""Run Headgate's own calls on a device that compiles for an H100 and computes nothing, and say what was compiled.

No GPU is needed, and no type of an argument is written down here: Triton's launcher sees real calls. A JSON line for
each kernel. Run as a program, in a process of its own: the tests' interpreter takes the compiler's place in theirs.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from headgate.kernels.function import ExpertFunction
from headgate.kernels.route import route_on_gpu
from headgate.kernels.route_call import RouterFormula
from headgate.kernels.triton import experts, gradients, ops, plan, schedule
from headgate.kernels.triton.route_gradient import differentiate_logits
from headgate.kernels.triton.weight_gradient import weight_gradient_kernel

DUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
D, F, E, K = 2048, 1024, 64, 8  # OLMoE
MIXTRAL = RouterFormula(K, "softmax", "model", "float32", "scores", 0, 0, 0, "-inf", "sum", 1.0, 0.0, "add", 1.0)
DEEPSEEK = MIXTRAL._replace(score="sigmoid", linear_dtype="float32", num_groups=8, num_kept=4, group_counted=2)
WIDEST = MIXTRAL._replace(top_k=16, score="sqrt_softplus", score_dtype="model", norm_order=3.0)
GPT_OSS = ExpertFunction(interleaved=True, clamp=7.0, sigmoid_slope=1.702, up_offset=1.0)


class Compiler:
    """A driver of Triton's whose device takes every launch and does nothing; the time of a call is its number."""

    def __init__(self) -> None:
        self.utils = self
        self.num_timed = 0

    def get_current_target(self) -> GPUTarget:
        """An H100."""
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        """The only one."""
        return 0

    def get_current_stream(self, _device: int) -> int:
        """The only one."""
        return 0

    def get_device_properties(self, _device: int) -> dict[str, int]:
        """What a block may have."""
        return {"max_shared_mem": schedule.SHARED_MEMORY_BYTES}

    def load_binary(self, *_: object) -> tuple[object, int, int, int, int]:
        """Module, function, registers, spills, threads."""
        return object(), 0, 0, 0, 1024

    def launcher_cls(self, *_: object) -> Callable[..., None]:
        """What launches a kernel."""
        return lambda *_arguments: None

    def get_benchmarker(self) -> Callable[..., list[float]]:
        """A clock by which what is timed later is faster."""

        def measure(call: Callable[[], object], **_: object) -> list[float]:
            call()
            self.num_timed += 1
            return [1.0 / self.num_timed] * 3

        return measure


def make_problem(num_tokens: int, dtype: torch.dtype, function: ExpertFunction, *, weighs_input: bool) -> ops.Problem:
    """Memory without values: nothing is read. Biases where the gates are interleaved."""
    num_rows, size = num_tokens * K, {"dtype": torch.int64}
    rows = (torch.empty(n, **size) for n in (num_rows, num_rows, E + 1, num_rows, num_tokens + 1))
    shapes = ((num_rows,), (E, 2 * F, D), (E, D, F), (E, 2 * F), (E, D))
    weights, *floats = (torch.empty(shape, dtype=dtype) for shape in shapes)
    biased = floats if function.interleaved else [*floats[:2], None, None]
    x = torch.empty(num_tokens, D, dtype=dtype)
    return ops.Problem(x, *rows, weights.float(), *biased, function, weighs_input=weighs_input)


def train(problem: ops.Problem) -> None:
    """Forward, and every gradient."""
    up_rows = problem.new_up_rows()
    experts.run(problem, up_rows)
    wanted = (problem.x, problem.combine_weights, problem.up, problem.down, problem.up_bias, problem.down_bias)
    outputs = gradients.Outputs(*(None if tensor is None else torch.empty_like(tensor) for tensor in wanted))
    gradients.run(problem, torch.empty_like(problem.x), up_rows, outputs)


def decide(formula: RouterFormula, num_tokens: int, num_experts: int, *, biased: bool) -> None:
    """A route of bfloat16 tokens, and its gradient."""
    x, weight = (torch.empty(n, D, dtype=torch.bfloat16) for n in (num_tokens, num_experts))
    selection_bias = torch.empty(num_experts) if biased else None
    bias = torch.empty(num_experts, dtype=torch.bfloat16) if biased else None
    routed = route_on_gpu(x, weight, bias, selection_bias, formula)
    given = (routed.logits, None if biased else routed.scores, routed.combine_weights)
    differentiate_logits(given, routed.logits, selection_bias, routed.expert_ids, formula, x.dtype)


def decode() -> None:
    """A token, two, and so few rows that sums are in parts."""
    experts.run(make_problem(1, torch.bfloat16, ExpertFunction(), weighs_input=False))
    problem = make_problem(2, torch.bfloat16, ExpertFunction(), weighs_input=False)
    experts.run(problem)
    narrow = problem._replace(up=problem.up[:, :256], down=problem.down[:, :, :128])
    experts.run(narrow)
    decide(MIXTRAL, 1, E, biased=False)


def prefill() -> None:
    """Many tokens, with gradients."""
    train(make_problem(4096, torch.bfloat16, ExpertFunction(), weighs_input=False))
    decide(DEEPSEEK, 4096, 256, biased=False)
    decide(WIDEST, 300, 512, biased=True)
    plan.plan_choice_triton(torch.empty(4096, K, dtype=torch.int64), 256)


def odd() -> None:
    """Biases, weights on the input, float32 as tf32."""
    train(make_problem(4096, torch.bfloat16, GPT_OSS, weighs_input=True))
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    experts.run(make_problem(256, torch.float32, ExpertFunction(), weighs_input=False))


def tune(num_tokens: int) -> None:
    """A small kernel whose configurations are timed."""
    problem = make_problem(num_tokens, torch.bfloat16, ExpertFunction(), weighs_input=False)
    left = torch.empty(num_tokens * K, 64, dtype=torch.bfloat16)
    out = torch.empty(E, 64, D, dtype=torch.bfloat16)
    gradients.write_weight_gradient(problem, out, left, problem.x, gathers="right")


SCENES = {"decode": decode, "prefill": prefill, "odd": odd}


def describe(compiled: Any) -> dict[str, Any]:
    """Registers, bytes of stack (where registers spill) and of shared memory, and which products run."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        usage = subprocess.run([DUMP, "-res-usage", cubin.name], capture_output=True, text=True, check=True)
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage.stdout + usage.stderr).groups()  # type: ignore[union-attr]
    found = {name: name in compiled.asm["ptx"] for name in ("wgmma", "mma.sync", "tf32")}
    return {"registers": int(registers), "stack": int(stack), "shared": compiled.metadata.shared, **found}


def show_kernels() -> None:
    """Go through the scenes; under deterministic algorithms each kernel has its first configuration."""
    seen = []

    def see(*_: object, fn: Any, compile: dict[str, Any], **__: object) -> None:
        seen.append((fn.jit_function, compile["key"]))

    knobs.runtime.jit_post_compile_hook = see
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    for scene, go_through in SCENES.items():
        go_through()
        for kernel, key in seen:
            compiled = kernel.device_caches[0][0][key]
            print(json.dumps({"scene": scene, "kernel": kernel.__name__, **describe(compiled)}))
        seen.clear()
    torch.use_deterministic_algorithms(False)
    knobs.runtime.jit_post_compile_hook = None


def show_tuning(device: Compiler) -> None:
    """How many configurations were timed, and the best: for a size, for more rows in its bucket, and from the disk."""
    before = device.num_timed
    for num_tokens, is_forgotten in ((1, False), (2, False), (1, True)):
        if is_forgotten:
            weight_gradient_kernel.cache.clear()
            weight_gradient_kernel.known.clear()
        tune(num_tokens)
        best = [str(config) for config in weight_gradient_kernel.cache.values()]
        print(json.dumps({"untimed": before, "timed": device.num_timed - before, "best": best}))


if __name__ == "__main__":
    compiler = Compiler()
    driver.set_active(compiler)
    show_kernels()
    show_tuning(compiler)
