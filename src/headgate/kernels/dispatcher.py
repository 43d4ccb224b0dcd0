"""When PyTorch's dispatcher may be passed by: it costs more than the routing of one token."""

from __future__ import annotations

import torch


def is_seen_by_python() -> bool:
    """Whether a compiler, a tracer, a function transform or a dispatch mode wants to see each operation."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
    )
