"""What else a user could install for a GPU: one adapter each, which says why where it can't run.

Each uses the very weights of the problem, rearranged where its layout differs, which costs memory but no time of the
calls. The adapters follow the packages' published sources (ScatterMoE 47b5e15, MegaBlocks 78eea65, SonicMoE 8565e84,
vLLM's `fused_experts` since 0.10), and have run with none of them: what an adapter gives is compared with float64 like
any other result, and a wrong or failing one is reported and not timed.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.contenders import Contender, make_transformers_experts, transformers_contender
from support.problem import Problem


def compiled_eager(problem: Problem) -> Contender:
    """transformers' eager experts under `torch.compile`."""
    module = make_transformers_experts(problem.shape, "eager")
    module.gate_up_proj, module.down_proj = problem.gate_up, problem.down
    weights = problem.combine_weights.to(problem.x.dtype).requires_grad_(problem.x.requires_grad)
    # After eight sizes of one function the compiler would give up and leave it eager.
    torch.compiler.reset()
    # What a CPU compiles takes seconds of a C++ compiler, and there nothing is timed that counts.
    compiled = torch.compile(module, backend="inductor" if problem.x.is_cuda else "aot_eager")
    run = functools.partial(compiled, problem.x, problem.expert_ids, weights)
    return _contender("torch.compile", problem, run, weights)


def vllm(problem: Problem) -> Contender:
    """vLLM's fused MoE, for inference."""
    fused_experts = importlib.import_module("vllm.model_executor.layers.fused_moe").fused_experts
    ids, weights = problem.expert_ids.to(torch.int32), problem.combine_weights
    run = functools.partial(fused_experts, problem.x, problem.gate_up, problem.down, weights, ids)
    return _contender("vllm", problem, run, weights)


def scattermoe(problem: Problem) -> Contender:
    """ScatterMoE's gated MLP, which has the gate's rows after those of up."""
    shape = problem.shape
    make = importlib.import_module("scattermoe.mlp").GLUMLP
    with torch.device("meta"):
        module = make(shape.d_model, shape.d_ff, shape.num_experts, shape.top_k, activation=nn.SiLU())
    gate, up = problem.gate_up.detach().chunk(2, dim=1)
    is_trained = problem.gate_up.requires_grad
    module.experts.weight = nn.Parameter(torch.cat([up, gate], dim=1), requires_grad=is_trained)
    module.output_experts.weight = problem.down
    weights = problem.combine_weights.to(problem.x.dtype).requires_grad_(problem.x.requires_grad)
    run = functools.partial(module, problem.x, weights, problem.expert_ids)
    return _contender("scattermoe", problem, run, weights, module.experts.weight)


def megablocks(problem: Problem) -> Contender:
    """MegaBlocks' dropless MLP with grouped products."""
    shape, x = problem.shape, problem.x
    arguments = importlib.import_module("megablocks.layers.arguments").Arguments(
        hidden_size=shape.d_model,
        ffn_hidden_size=shape.d_ff,
        moe_num_experts=shape.num_experts,
        moe_top_k=shape.top_k,
        mlp_type="glu",
        mlp_impl="grouped",
        activation_fn=F.silu,
        bias=False,
        return_bias=False,
        bf16=x.dtype == torch.bfloat16,
        fp16=x.dtype == torch.float16,
        device="meta",  # it would draw weights of its own, twice
        moe_loss_weight=0.0,
    )
    module = importlib.import_module("megablocks.layers.dmoe").ParallelDroplessMLP(arguments)
    gate, up = (half.reshape(-1, shape.d_model).contiguous() for half in problem.gate_up.detach().chunk(2, dim=1))
    down = problem.down.detach().transpose(1, 2).reshape(-1, shape.d_model).contiguous()
    is_trained = problem.gate_up.requires_grad
    parameters = [nn.Parameter(matrix, requires_grad=is_trained) for matrix in (gate, up, down)]
    module.mlp.w1, module.mlp.v1, module.mlp.w2 = parameters
    weights = problem.combine_weights.to(x.dtype).requires_grad_(x.requires_grad)
    scores = torch.zeros(x.shape[0], shape.num_experts, dtype=x.dtype, device=x.device)

    def run() -> Tensor:
        y = module(x[None], scores, weights, problem.expert_ids)
        return (y[0] if isinstance(y, tuple) else y).view_as(x)

    return _contender("megablocks", problem, run, weights, *parameters)


def sonicmoe(problem: Problem) -> Contender:
    """SonicMoE on choices that were made elsewhere; its weights are [2F, D, E] views, gate and up in turns."""
    functional = importlib.import_module("sonicmoe.functional")
    swiglu = importlib.import_module("sonicmoe.enums").ActivationType.SWIGLU
    shape, x = problem.shape, problem.x
    gate, up = problem.gate_up.detach().chunk(2, dim=1)
    in_turns = torch.stack([gate, up], dim=2).flatten(1, 2)
    leaf = nn.Parameter(in_turns, requires_grad=problem.gate_up.requires_grad)
    weights = problem.combine_weights.clone().requires_grad_(x.requires_grad)
    tokens = torch.arange(x.shape[0], dtype=torch.int32, device=x.device).repeat_interleave(shape.top_k)
    ids = problem.expert_ids.flatten().to(torch.int32)

    def run() -> Tensor:
        up_view, down_view = leaf.permute(1, 2, 0), problem.down.permute(1, 2, 0)
        stream = torch.cuda.current_stream().cuda_stream
        routed = (x, weights.flatten(), tokens, ids)
        experts = (up_view, None, down_view, None, shape.num_experts, stream, swiglu, not x.requires_grad)
        return functional.moe_general_routing_inputs(*routed, *experts)[0]

    return _contender("sonicmoe", problem, run, weights, leaf)


RIVALS: dict[str, Callable[[Problem], Contender]] = {
    "torch.compile": compiled_eager,
    "vllm": vllm,
    "scattermoe": scattermoe,
    "megablocks": megablocks,
    "sonicmoe": sonicmoe,
}
INFERENCE_ALONE = {"vllm"}
COPYING = ("scattermoe", "megablocks", "sonicmoe")
"""Rivals with a layout of their own, and so with weights of their own."""


def count_copies() -> int:
    """How many of the rivals at hand copy the weights."""
    return sum(importlib.util.find_spec(name) is not None for name in COPYING)


def find_rival(name: str, problem: Problem) -> Contender | str:
    """The rival, one of `RIVALS` or an implementation of transformers; or why it can't take part."""
    if problem.x.requires_grad and name in INFERENCE_ALONE:
        return "has no gradients"
    try:
        return RIVALS[name](problem) if name in RIVALS else transformers_contender(problem, name)
    except ModuleNotFoundError as error:
        return f"not installed ({error.name})"
    # Others' packages fail in ways of their own; what they say is reported, and the rest goes on.
    except Exception as error:  # noqa: BLE001
        return f"fails: {type(error).__name__}: {str(error)[:80]}"


def _contender(name: str, problem: Problem, run: Callable[[], Tensor], *leaves: Tensor) -> Contender:
    return Contender(name=name, run=run, leaves=(problem.x, problem.gate_up, problem.down, *leaves))
