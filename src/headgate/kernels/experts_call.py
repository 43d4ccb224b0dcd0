"""One call of the C++ experts: where everything lies, as the bytes of `headgate_experts` in `csrc/headgate.h`.

Between the layers of a large model, the weights push this code and what it touches out of the caches: then every
operation that is avoided here saves tens of microseconds, and one token's experts take two or three milliseconds.
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor

from headgate.errors import BackendError
from headgate.kernels import native
from headgate.kernels.function import Activation, ExpertFunction
from headgate.kernels.threads import thread_pool

ACTIVATIONS = get_args(Activation)
"""In the order of `headgate_activation`."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""In the order of `headgate_dtype`."""
ISAS = {"best": -1, "generic": 0, "avx2": 1, "avx512": 2, "avx512_bf16": 3}

Weights: TypeAlias = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
"""up [E, 2F or F, D], down [E, D, F], up_bias [E, 2F or F] or None, down_bias [E, D] or None."""

# isa, dtype; threads; function; T, D, F, E, R; x and its stride, the plan, weights of rows or slots; up; down.
_EXPERTS = struct.Struct("@ii Pi4x iiifff qqqqq Pq PPPPPP PqqqP PqqqP")
# ids and whether they are 32 bits wide, combine weights and their dtype, K.
_CHOICE = struct.Struct("@Pi4x Pi4x q")
_INDICES = (torch.int64, torch.int32)


class Rows(NamedTuple):
    """Which rows there are: int64 vectors of a `DispatchPlan`, and the weight of each row.

    Attributes:
        token_of_row: [R], rows sorted by expert.
        expert_offsets: [E + 1] or longer; rows from `expert_offsets[E]` on return their input.
        row_order: [R], rows sorted by token, then by slot.
        token_offsets: [T + 1].
        weights: float32 [R], or [N] by slot where `slot_of_row` is given.
        slot_of_row: [R], or None.
    """

    token_of_row: Tensor
    expert_offsets: Tensor
    row_order: Tensor
    token_offsets: Tensor
    weights: Tensor
    slot_of_row: Tensor | None = None


class Call:
    """The arguments of a call in the library's terms, and the tensors that they point into.

    Attributes:
        library: what is called.
        problem: `headgate_experts`.
        x: [..., D], as it is read.
        layout: T, and the elements from one token to the next.
        num_rows: R, 0 where it is not known yet.
    """

    __slots__ = ("_isa", "_keep", "layout", "library", "num_rows", "problem", "x")

    def __init__(
        self, x: Tensor, rows: Rows | None, weights: Weights, function: ExpertFunction, isa: str = "best"
    ) -> None:
        library = native.library()
        if library is None:
            raise BackendError(f"the native experts are not available: {native.why_missing()}; {native.HOW_TO_GET}")
        x = x if x.stride(-1) == 1 and (x.dim() == 2 or x.is_contiguous()) else x.contiguous()
        d_model = x.shape[-1]
        self.layout = (x.shape[0], x.stride(0)) if x.dim() == 2 else (x.numel() // d_model, d_model)
        up, down = _addressable(weights[0]), _addressable(weights[1])
        up_bias, down_bias = _packed(weights[2]), _packed(weights[3])
        vectors = () if rows is None else tuple(_packed(vector) for vector in rows)
        self.library, self._isa = library, isa
        self.num_rows = 0 if rows is None else rows.token_of_row.shape[0]
        self.x, self._keep = x, (up, down, up_bias, down_bias, vectors)
        activation, gated, interleaved, clamp, sigmoid_slope, up_offset = function
        self.problem = _EXPERTS.pack(
            ISAS[isa],
            DTYPES.index(x.dtype),
            *thread_pool(),
            ACTIVATIONS.index(activation),
            gated,
            interleaved,
            math.inf if clamp is None else clamp,
            sigmoid_slope,
            up_offset,
            self.layout[0],
            d_model,
            down.shape[2],
            up.shape[0],
            self.num_rows,
            x.data_ptr(),
            self.layout[1],
            *((0,) * 6 if rows is None else map(_address, vectors)),
            *_matrices(up, up_bias),
            *_matrices(down, down_bias),
        )

    def forward(self, y: Tensor, up_rows: Tensor | None = None) -> Tensor:
        """Write the experts' sums to `y` [T, D] and, where wanted, the first projection's result; return `y`."""
        self.check(self.library.headgate_experts_forward(self.problem, y.data_ptr(), _address(up_rows)))
        return y

    def forward_choice(self, expert_ids: Tensor, combine_weights: Tensor, y: Tensor) -> Tensor:
        """Write the sums of chosen experts to `y`: ids [T, K] int64 or int32, weights [T, K] of one of `DTYPES`."""
        expert_ids, combine_weights = expert_ids.contiguous(), combine_weights.contiguous()
        ids = (expert_ids.data_ptr(), _INDICES.index(expert_ids.dtype))
        weights = (combine_weights.data_ptr(), DTYPES.index(combine_weights.dtype))
        choice = _CHOICE.pack(*ids, *weights, expert_ids.shape[1])
        self.num_rows = expert_ids.numel()
        self.check(self.library.headgate_experts_on_choice(self.problem, choice, y.data_ptr()))
        return y

    def check(self, status: int) -> None:
        """Raise for a status other than success.

        Raises:
            MemoryError: no room for the rows' intermediate results.
            BackendError: this processor lacks the instruction set.
        """
        if status == native.OUT_OF_MEMORY:
            raise MemoryError(f"no memory for the intermediate results of {self.num_rows} rows; pass fewer tokens")
        if status:
            raise BackendError(
                f"isa (={self._isa!r}) can't run on this processor, or sizes don't match; use isa='best'"
            )


def _addressable(weight: Tensor) -> Tensor:
    # Not `contiguous()`, which leaves the strides of a [1, 1, 1] tensor as they are.
    return weight if 1 in weight.stride()[1:] else weight.clone(memory_format=torch.contiguous_format)


def _matrices(weight: Tensor, bias: Tensor | None) -> tuple[int, ...]:
    return weight.data_ptr(), *weight.stride(), _address(bias)


def _packed(tensor: Tensor | None) -> Tensor | None:
    return tensor if tensor is None else tensor.contiguous()


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
