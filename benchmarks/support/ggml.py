"""llama.cpp's experts: its library's own operations on the very weights that the others read, by its C API.

`pip install llama-cpp-python` builds the library; CMAKE_ARGS=-DGGML_NATIVE=ON lets it use all of this processor.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from support.contenders import Contender
from support.problem import Problem

_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 30}
_F32, _I32 = 0, 26
_POINTER, _SIZE, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_MOST_TENSORS = 256
_SIGNATURES = {
    "ggml_tensor_overhead": (ctypes.c_size_t,),
    "ggml_graph_overhead": (ctypes.c_size_t,),
    "ggml_init": (_POINTER,),
    "ggml_free": (None, _POINTER),
    "ggml_new_tensor_3d": (_POINTER, _POINTER, _INT, _SIZE, _SIZE, _SIZE),
    "ggml_mul_mat_id": (_POINTER,) * 5,
    "ggml_swiglu": (_POINTER,) * 3,
    "ggml_mul": (_POINTER,) * 4,
    "ggml_add": (_POINTER,) * 4,
    "ggml_view_2d": (_POINTER, _POINTER, _POINTER, _SIZE, _SIZE, ctypes.c_size_t, ctypes.c_size_t),
    "ggml_new_graph": (_POINTER, _POINTER),
    "ggml_build_forward_expand": (None, _POINTER, _POINTER),
    "ggml_set_output": (None, _POINTER),
    "ggml_backend_cpu_init": (_POINTER,),
    "ggml_backend_cpu_set_n_threads": (None, _POINTER, _INT),
    "ggml_backend_cpu_buffer_from_ptr": (_POINTER, _POINTER, ctypes.c_size_t),
    "ggml_backend_tensor_alloc": (_INT, _POINTER, _POINTER, _POINTER),
    "ggml_backend_get_default_buffer_type": (_POINTER, _POINTER),
    "ggml_backend_graph_compute": (_INT, _POINTER, _POINTER),
    "ggml_backend_tensor_get": (None, _POINTER, _POINTER, ctypes.c_size_t, ctypes.c_size_t),
    "ggml_gallocr_new": (_POINTER, _POINTER),
    "ggml_gallocr_alloc_graph": (ctypes.c_bool, _POINTER, _POINTER),
}


class _Parameters(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", _POINTER), ("no_alloc", ctypes.c_bool))


class Ggml:
    """The functions of the library in a folder such as `llama_cpp/lib`."""

    def __init__(self, folder: Path) -> None:
        libraries = [
            ctypes.CDLL(str(folder / f"lib{name}.so"), mode=ctypes.RTLD_GLOBAL) for name in ("ggml-base", "ggml-cpu")
        ]
        for name, (result, *arguments) in _SIGNATURES.items():
            function = next(getattr(library, name) for library in libraries if hasattr(library, name))
            function.restype = result
            function.argtypes = [_Parameters] if name == "ggml_init" else arguments
            setattr(self, name, function)


def _sum_slots(g: Ggml, context: int, outputs: int, sizes: tuple[int, int, int]) -> int:
    """Add up each token's K outputs, as views of the [T, K, D] that llama.cpp has them in."""
    top_k, num_tokens, d_model = sizes
    row = 4 * d_model
    parts = [g.ggml_view_2d(context, outputs, d_model, num_tokens, row * top_k, row * slot) for slot in range(top_k)]
    total: int = functools.reduce(functools.partial(g.ggml_add, context), parts)
    g.ggml_set_output(total)
    return total


def ggml_contender(problem: Problem, folder: Path) -> Contender:
    """x -> gate and up -> SwiGLU -> down -> weighted sum, as llama.cpp builds it; tokens and sums are float32."""
    g = Ggml(folder)
    shape, num_tokens, top_k = problem.shape, problem.x.shape[0], problem.expert_ids.shape[1]
    size = g.ggml_tensor_overhead() * _MOST_TENSORS + g.ggml_graph_overhead()
    context = g.ggml_init(_Parameters(size, None, True))
    backend = g.ggml_backend_cpu_init()
    g.ggml_backend_cpu_set_n_threads(backend, torch.get_num_threads())
    x, ids = problem.x.detach().float().contiguous(), problem.expert_ids.int().contiguous()
    combine_weights = problem.combine_weights.detach().float().contiguous()
    kept = (x, ids, combine_weights, problem.gate_up, problem.down)

    def place(tensor: Tensor, kind: int, *sizes: int) -> int:
        made: int = g.ggml_new_tensor_3d(context, kind, *sizes)
        buffer = g.ggml_backend_cpu_buffer_from_ptr(tensor.data_ptr(), tensor.nbytes)
        assert g.ggml_backend_tensor_alloc(buffer, made, tensor.data_ptr()) == 0
        return made

    kind, width = _TYPES[problem.gate_up.dtype], problem.gate_up.shape[1]
    up = place(problem.gate_up.detach(), kind, shape.d_model, width, shape.num_experts)
    down = place(problem.down.detach(), kind, shape.d_ff, shape.d_model, shape.num_experts)
    tokens = place(x, _F32, shape.d_model, 1, num_tokens)
    chosen = g.ggml_view_2d(context, place(ids, _I32, top_k, num_tokens, 1), top_k, num_tokens, 4 * top_k, 0)
    hidden = g.ggml_swiglu(context, g.ggml_mul_mat_id(context, up, tokens, chosen))
    outputs = g.ggml_mul_mat_id(context, down, hidden, chosen)
    outputs = g.ggml_mul(context, outputs, place(combine_weights, _F32, 1, top_k, num_tokens))
    total = _sum_slots(g, context, outputs, (top_k, num_tokens, shape.d_model))
    graph = g.ggml_new_graph(context)
    g.ggml_build_forward_expand(graph, total)
    memory = g.ggml_gallocr_new(g.ggml_backend_get_default_buffer_type(backend))
    assert g.ggml_gallocr_alloc_graph(memory, graph)
    y = torch.empty(num_tokens, shape.d_model)

    def run() -> Tensor:
        assert g.ggml_backend_graph_compute(backend, graph) == 0
        g.ggml_backend_tensor_get(total, y.data_ptr(), 0, y.nbytes)
        return y

    run.kept = kept  # type: ignore[attr-defined]
    return Contender(name="llama.cpp", run=run, leaves=())
