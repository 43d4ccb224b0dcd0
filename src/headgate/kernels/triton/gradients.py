"""The experts backward, from the output's gradient to every input's. The host reads no tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from triton import cdiv, next_power_of_2

from headgate.kernels.triton.activation_gradient import activation_gradient_kernel
from headgate.kernels.triton.experts import (
    combine,
    function_arguments,
    grid_over_rows,
    multiply_rows,
    product_arguments,
    project_up,
    routing_arguments,
    row_arguments,
    strides,
    unit_stride,
    with_unit_stride,
)
from headgate.kernels.triton.ops import Problem
from headgate.kernels.triton.schedule import ACTIVATION_GRADIENT, PRODUCT, launch
from headgate.kernels.triton.sums import bias_gradient_kernel, row_weight_gradient_kernel
from headgate.kernels.triton.weight_gradient import weight_gradient_kernel

_SUMMED_ROWS, _SUMMED_COLUMNS = 32, 128


class Outputs(NamedTuple):
    """Where gradients go; None where none is wanted."""

    x: Tensor | None
    combine_weights: Tensor | None
    up: Tensor | None
    down: Tensor | None
    up_bias: Tensor | None
    down_bias: Tensor | None


def run(problem: Problem, dy: Tensor, up_rows: Tensor | None, outputs: Outputs) -> None:
    """Write the gradients that are wanted.

    Args:
        problem: of the forward.
        dy: [T, D].
        up_rows: what the first projection gave, or None to compute it again.
        outputs: where to.
    """
    problem, dy = with_unit_stride(problem), unit_stride(dy)
    with torch.cuda.device_of(problem.x):
        if up_rows is None:
            up_rows = problem.new_up_rows()
            project_up(problem, hidden=None, up_rows=up_rows)
        d_up_rows, hidden, parts = _differentiate_activation(problem, dy, up_rows, outputs)
        if outputs.x is not None or (problem.weighs_input and outputs.combine_weights is not None):
            parts = _write_token_gradient(problem, dy, d_up_rows, parts, outputs)
        if outputs.combine_weights is not None:
            _write_row_weight_gradient(problem, dy, parts, outputs.combine_weights)
        if outputs.up is not None:
            write_weight_gradient(problem, outputs.up, d_up_rows, problem.x, gathers="right")
        if outputs.down is not None:
            write_weight_gradient(problem, outputs.down, dy, hidden, gathers="left")
        if outputs.up_bias is not None:
            write_bias_gradient(problem, outputs.up_bias, d_up_rows, gathers=False)
        if outputs.down_bias is not None:
            write_bias_gradient(problem, outputs.down_bias, dy, gathers=True)


def _new_parts(problem: Problem, num_columns: int, blocks: Mapping[str, int]) -> Tensor:
    return problem.x.new_empty((problem.num_rows, cdiv(num_columns, blocks["BLOCK_N"])), dtype=torch.float32)


def _differentiate_activation(
    problem: Problem, dy: Tensor, up_rows: Tensor, outputs: Outputs
) -> tuple[Tensor, Tensor, Tensor]:
    """The first projection's gradient [R, 2F or F], weighted hidden rows [R, F], parts of the weights' gradients."""
    product, down = product_arguments(problem), problem.down
    d_ff = down.shape[2]
    d_up_rows = problem.new_up_rows()
    hidden = problem.x.new_empty((problem.num_rows if outputs.down is not None else 0, d_ff))
    parts = _new_parts(problem, d_ff, ACTIVATION_GRADIENT.first(product["BUCKET"], product["PRECISION"]))
    if problem.num_rows == 0:
        return d_up_rows, hidden, parts
    launch(
        activation_gradient_kernel,
        grid_over_rows(problem, d_ff),
        **strides(down, "ekn"),
        **routing_arguments(problem),
        **function_arguments(problem),
        **row_arguments(problem),
        **product,
        dy=dy,
        token_of_row=problem.token_of_row,
        down=down,
        up_rows=up_rows,
        d_up_rows=d_up_rows,
        hidden=None if outputs.down is None else hidden,
        weight_parts=None if outputs.combine_weights is None else parts,
        dy_stride=dy.stride(0),
        D=problem.x.shape[1],
    )
    return d_up_rows, hidden, parts


def _write_token_gradient(problem: Problem, dy: Tensor, d_up_rows: Tensor, parts: Tensor, outputs: Outputs) -> Tensor:
    """Write the gradient of `x`; return the parts of the weights' gradients, made here where they weigh inputs."""
    if problem.weighs_input:
        product = product_arguments(problem)
        parts = _new_parts(problem, problem.x.shape[1], PRODUCT.first(product["BUCKET"], product["PRECISION"]))
    weight_parts = parts if problem.weighs_input else None
    rows = multiply_rows(problem, d_up_rows, problem.up.transpose(1, 2), None, weight_parts)
    if outputs.x is not None:
        combine(problem, rows, source=dy, is_weighted=False, out=outputs.x)
    return parts


def _write_row_weight_gradient(problem: Problem, dy: Tensor, parts: Tensor, out: Tensor) -> None:
    num_experts, num_buckets = problem.up.shape[0], problem.expert_offsets.shape[0] - 1
    out.zero_()  # of slots without a row
    if problem.num_rows == 0:
        return
    row_weight_gradient_kernel[(problem.num_rows,)](
        parts=parts,
        dy=dy,
        x=problem.x,
        down_bias=None if problem.weighs_input else problem.down_bias,
        token_of_row=problem.token_of_row,
        slot_of_row=problem.slot_of_row,
        expert_offsets=problem.expert_offsets,
        out=out,
        num_experts=num_experts,
        num_buckets=num_buckets,
        dy_stride=dy.stride(0),
        x_stride=problem.x.stride(0),
        D=problem.x.shape[1],
        PARTS=parts.shape[1],
        HAS_IDENTITY=num_buckets > num_experts,
        EXPERTS=next_power_of_2(num_experts),
        BLOCK_P=next_power_of_2(parts.shape[1]),
        BLOCK_D=1024,
        num_warps=1,
    )


def write_weight_gradient(
    problem: Problem, out: Tensor, left: Tensor, right: Tensor, *, gathers: Literal["left", "right"] | None
) -> None:
    """Sum left^T right over each expert's rows.

    Args:
        problem: whose rows they are.
        out: [E, A, B].
        left: [R, A], or [T, A] where it is gathered.
        right: [R, B], or [T, B]; where tokens are weighed, `left` gets the weights.
        gathers: the side that is tokens.
    """
    num_experts, a, b = out.shape

    def grid(blocks: Mapping[str, int]) -> tuple[int, ...]:
        return (num_experts * cdiv(a, blocks["BLOCK_M"]) * cdiv(b, blocks["BLOCK_N"]),)

    launch(
        weight_gradient_kernel,
        grid,
        **routing_arguments(problem),
        **product_arguments(problem),
        left=left,
        right=right,
        token_of_row=problem.token_of_row,
        out=out,
        left_stride=left.stride(0),
        right_stride=right.stride(0),
        A=a,
        B=b,
        GATHERS_LEFT=gathers == "left",
        GATHERS_RIGHT=gathers == "right",
        WEIGHTED=problem.weighs_input and gathers == "right",
    )


def write_bias_gradient(problem: Problem, out: Tensor, values: Tensor, *, gathers: bool) -> None:
    """Sum `values` over each expert's rows to `out` [E, C]: [R, C], or tokens [T, C] to be gathered and weighed."""
    num_experts, num_columns = out.shape
    bias_gradient_kernel[(num_experts, cdiv(num_columns, _SUMMED_COLUMNS))](
        **routing_arguments(problem),
        values=values,
        token_of_row=problem.token_of_row,
        out=out,
        stride=values.stride(0),
        C=num_columns,
        GATHERS=gathers,
        WEIGHTED=gathers and not problem.weighs_input,
        BLOCK_R=_SUMMED_ROWS,
        BLOCK_C=_SUMMED_COLUMNS,
    )
