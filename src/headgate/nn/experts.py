"""`Experts` and `SharedExpert`: the modules that own the experts' weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from headgate.errors import InputError, SpecError
from headgate.experts import ExpertWeights, activate, run_expert, run_experts
from headgate.flow import DispatchPlan
from headgate.kernels.experts import is_backend
from headgate.kernels.experts_call import Weights
from headgate.kernels.route import route
from headgate.kernels.route import runs_natively as route_runs_natively
from headgate.kernels.route_call import RouterFormula
from headgate.kernels.triton.ops import runs_in_triton
from headgate.spec import ExpertSpec, SharedSpec

_GATE = RouterFormula(
    top_k=1,
    score="sigmoid",
    linear_dtype="float32",
    score_dtype="float32",
    select_on="scores",
    num_groups=0,
    num_kept=0,
    group_counted=0,
    mask_value="-inf",
    normalise="none",
    norm_order=1.0,
    epsilon=0.0,
    epsilon_rule="add",
    scale=1.0,
)


class Experts(nn.Module):
    """E expert MLPs, stacked.

    Parameters: `gate_up_proj` [E, 2F, D] (rows of the gate first, then of up; alternating where the spec says
    interleaved), or `up_proj` [E, F, D] without a gate; `down_proj` [E, D, F]; with biases `gate_up_proj_bias`
    [E, 2F] or `up_proj_bias` [E, F], and `down_proj_bias` [E, D].

    Args:
        d_model: D.
        d_ff: F.
        num_experts: E.
        spec: what one expert computes.
        recompute: see `run_experts`; may be set later.
        device, dtype: as for `torch.nn.Linear`.

    Raises:
        SpecError: a size below 1.
    """

    down_proj: Tensor
    down_proj_bias: Tensor | None

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        *,
        num_experts: int,
        spec: ExpertSpec | None = None,
        recompute: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, value in {"d_model": d_model, "d_ff": d_ff, "num_experts": num_experts}.items():
            if value < 1:
                raise SpecError(f"{name} (={value}) must be at least 1; give a positive size")
        self.spec, self.recompute = spec or ExpertSpec(), recompute
        self.d_model, self.d_ff, self.num_experts = d_model, d_ff, num_experts
        self._up_name = _declare_projections(
            self, (num_experts,), d_model, d_ff, self.spec, bias=self.spec.bias, device=device, dtype=dtype
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights, each expert's as `torch.nn.Linear` draws its own."""
        _reset_projections(self, self._up_name, self.d_model, self.d_ff)

    def forward(
        self,
        x: Float[Tensor, "T D"],
        plan: DispatchPlan,
        combine_weights: Float[Tensor, "A B"],
        apply_to: Literal["output", "input"] = "output",
        *,
        batch_invariant: bool = False,
        beside: Callable[[Tensor], Tensor] | None = None,
    ) -> Float[Tensor, "T D"]:
        """Run each expert on its rows and add each token's weighted outputs.

        Args:
            x: [T, D].
            plan: whose rows go where.
            combine_weights: of the plan's choice.
            apply_to: whether weights multiply the experts' "output" or "input".
            batch_invariant: see `run_experts`.
            beside: what every token gets besides, such as the shared expert's output: [T, D] -> [T, D], added at the
                end. Experts on other ranks run it while tokens travel.

        Returns:
            [T, D] in the dtype of `x`.

        Raises:
            InputError: tokens and weights differ in dtype, outside autocast.
        """
        dtype = compute_dtype(x, self.down_proj)
        up, down, up_bias, down_bias = self.matrices()
        weights = ExpertWeights(
            up=up.to(dtype),
            down=down.to(dtype),
            up_bias=None if up_bias is None else up_bias.to(dtype),
            down_bias=None if down_bias is None else down_bias.to(dtype),
        )
        options: dict[str, Any] = {
            "apply_to": apply_to,
            "batch_invariant": batch_invariant,
            "recompute": self.recompute,
        }
        y = run_experts(x.to(dtype), plan, combine_weights, weights, self.spec.function, **options)
        y = y.to(x.dtype)
        return y if beside is None else y + beside(x)

    def passes_over_rows(self, x: Float[Tensor, "T D"]) -> bool:
        """Whether rows that a plan keeps for nobody do no harm here: on a GPU, whose kernels look at no such row."""
        # The weights don't say it yet: FSDP casts them when the experts are called.
        return runs_in_triton(x.device.type, _call_dtype(x))

    def matrices(self) -> Weights:
        """The parameters in the kernels' order: first projection, `down_proj`, and the biases of both or None."""
        up, up_bias = getattr(self, self._up_name), getattr(self, f"{self._up_name}_bias")
        return up, self.down_proj, up_bias, self.down_proj_bias

    def extra_repr(self) -> str:
        """Sizes and function."""
        return f"num_experts={self.num_experts}, d_model={self.d_model}, d_ff={self.d_ff}, spec={self.spec}"


class SharedExpert(nn.Module):
    """An MLP that every token gets, besides the experts that it is routed to.

    Parameters as `Experts` without the leading axis, and `output_gate` [1, D] where its output is gated.

    Args:
        d_model: D.
        shared: its width, gate and biases.
        experts: its function, the same as the routed experts'.
        device, dtype: as for `torch.nn.Linear`.
    """

    down_proj: Tensor
    down_proj_bias: Tensor | None
    output_gate: Tensor | None

    def __init__(
        self,
        d_model: int,
        shared: SharedSpec,
        experts: ExpertSpec,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.shared, self.d_model = experts, shared, d_model
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self._up_name = _declare_projections(self, (), d_model, shared.d_ff, experts, bias=shared.bias, **factory)
        gate = nn.Parameter(torch.empty(1, d_model, **factory)) if shared.gated_output else None
        self.register_parameter("output_gate", gate)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights as `torch.nn.Linear` does."""
        _reset_projections(self, self._up_name, self.d_model, self.shared.d_ff)
        if self.output_gate is not None:
            bound = 1.0 / math.sqrt(self.d_model)
            nn.init.uniform_(self.output_gate, -bound, bound)

    def forward(self, x: Float[Tensor, "T D"], *, batch_invariant: bool = False) -> Float[Tensor, "T D"]:
        """Run the MLP on every token: [T, D] in the dtype of `x`; for `batch_invariant` see `run_experts`."""
        up, up_bias = getattr(self, self._up_name), getattr(self, f"{self._up_name}_bias")
        is_fused = is_backend(x, x.shape[0], 1) and not torch.is_autocast_enabled(x.device.type)
        if batch_invariant or is_fused:
            weights = ExpertWeights(
                up=up[None],
                down=self.down_proj[None],
                up_bias=None if up_bias is None else up_bias[None],
                down_bias=None if self.down_proj_bias is None else self.down_proj_bias[None],
            )
            y = run_expert(x, weights, self.spec.function)
        else:
            hidden = activate(F.linear(x, up, up_bias), self.spec.function)
            y = F.linear(hidden, self.down_proj, self.down_proj_bias)
        if self.output_gate is not None:
            y = self._gate(x, self.output_gate) * y
        return y.to(x.dtype)

    def _gate(self, x: Float[Tensor, "T D"], weight: Float[Tensor, "1 D"]) -> Float[Tensor, "T 1"]:
        is_trained = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
        if is_trained or not route_runs_natively(x.device.type, x.dtype, weight.dtype):
            return torch.sigmoid(F.linear(x, weight))
        # A gate is a router with one expert, and the native one gives a token the same bits in every batch.
        return route(x, weight, None, None, _GATE).combine_weights.to(x.dtype)


def _declare_projections(
    module: nn.Module,
    lead: tuple[int, ...],
    d_model: int,
    d_ff: int,
    spec: ExpertSpec,
    *,
    bias: bool,
    **factory: Any,
) -> str:
    """Give the module its projections, and return the name of the first."""
    name, width = ("gate_up_proj", 2 * d_ff) if spec.gated else ("up_proj", d_ff)
    shapes = {name: (*lead, width, d_model), "down_proj": (*lead, d_model, d_ff)}
    bias_shapes = {f"{name}_bias": (*lead, width), "down_proj_bias": (*lead, d_model)}
    for key, shape in shapes.items():
        module.register_parameter(key, nn.Parameter(torch.empty(shape, **factory)))
    for key, shape in bias_shapes.items():
        module.register_parameter(key, nn.Parameter(torch.empty(shape, **factory)) if bias else None)
    return name


def _reset_projections(module: nn.Module, up_name: str, d_model: int, d_ff: int) -> None:
    fan_in = {up_name: d_model, f"{up_name}_bias": d_model, "down_proj": d_ff, "down_proj_bias": d_ff}
    for name, fan in fan_in.items():
        parameter = getattr(module, name)
        if parameter is not None:
            nn.init.uniform_(parameter, -1.0 / math.sqrt(fan), 1.0 / math.sqrt(fan))


def compute_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype that experts compute in: autocast's, or the one that tokens and weights share."""
    dtype = _call_dtype(x)
    if dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise InputError(
            f"x.dtype (={x.dtype}) must be that of the experts' weights (={weight.dtype}); "
            f"call layer.to({x.dtype}), or run under torch.autocast"
        )
    return dtype


def _call_dtype(x: Tensor) -> torch.dtype:
    """Autocast's, or that of the tokens."""
    device_type = x.device.type
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else x.dtype
