"""`MoE`: the routed layer that takes an MLP's place."""

from __future__ import annotations

from functools import partial
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from headgate.balance import Balance
from headgate.errors import BackendError, InputError, SpecError
from headgate.kernels.experts import runs_natively
from headgate.nn.experts import Experts, SharedExpert
from headgate.nn.native_route import is_covered
from headgate.nn.one_call import run_at_once
from headgate.nn.router import Router, check_token_ids
from headgate.spec import ExpertSpec, RouterSpec, SharedSpec, family, preset


class MoE(nn.Module):
    """A Mixture-of-Experts layer: a router picks experts for each token, and only those run.

    y[t] = sum over the chosen experts e of weight[t, e] * expert_e(x[t]), plus the shared expert where there is one.
    By default as in Mixtral: SwiGLU experts, softmax, top-2, weights divided by their sum; but the router computes in
    float32, which the preset "mixtral", as the model it is named for, does not. Cost follows the number of choices,
    not the number of experts.

    Modules: `router` (`Router`), `experts` (`Experts`), `shared_expert` (`SharedExpert` or None).

    Args:
        d_model: D, the width of tokens.
        d_ff: F, the hidden width of one expert.
        num_experts: E; may be left out where `router` is a `RouterSpec`.
        top_k: K, experts per token; None = the router's usual number.
        router: a preset's name (`headgate.preset_names()`) or a `RouterSpec`; None = see above.
        experts: what one expert computes; None = SwiGLU.
        shared: an expert that every token gets; None = none.
        balance: "switch", "z", "importance", "sequence", "global_batch", "bias", or a `Balance`; None = none.
        balance_group: data-parallel group of the global-batch loss; None = all ranks.
        batch_invariant: refuse to run where a token's output could have other bits alone than in a batch. It holds for
            inference on a CPU with the native kernels, at no price: these have one order of summation for every batch.
        device, dtype: as for `torch.nn.Linear`.

    Raises:
        SpecError: sizes or options that can't be, with the remedy.

    References:
        Jiang et al., "Mixtral of Experts", 2024, https://arxiv.org/abs/2401.04088, section 2.1.

    Example:
        >>> import torch
        >>> layer = MoE(d_model=16, d_ff=32, num_experts=4, top_k=2)
        >>> layer(torch.randn(2, 5, 16)).shape
        torch.Size([2, 5, 16])
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        *,
        num_experts: int | None = None,
        top_k: int | None = None,
        router: str | RouterSpec | None = None,
        experts: ExpertSpec | None = None,
        shared: SharedSpec | None = None,
        balance: Balance | str | None = None,
        balance_group: dist.ProcessGroup | None = None,
        batch_invariant: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        spec = _resolve_router(router, num_experts, top_k)
        if batch_invariant and not is_covered(spec):
            raise SpecError(
                f"batch_invariant (=True) needs a router that ranks each token's experts by themselves, not selection "
                f"{spec.selection!r} with capacity {spec.capacity}; use selection='top_k' and capacity=None"
            )
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        expert_spec = experts or ExpertSpec()
        self.experts = Experts(d_model, d_ff, num_experts=spec.num_experts, spec=expert_spec, **factory)
        strengths = Balance.named(balance) if isinstance(balance, str) else balance
        self.router = Router(d_model, spec, balance=strengths, balance_group=balance_group, **factory)
        self.shared_expert = None if shared is None else SharedExpert(d_model, shared, expert_spec, **factory)
        self.d_model, self.batch_invariant = d_model, batch_invariant

    @classmethod
    def from_family(
        cls,
        name: str,
        d_model: int,
        d_ff: int,
        *,
        num_experts: int,
        top_k: int | None = None,
        shared_d_ff: int | None = None,
        balance: Balance | str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **router_fields: Any,
    ) -> Self:
        """Build the whole layer of a model family: its router, its experts' function, its shared expert.

        Args:
            name: one of `headgate.preset_names()`.
            d_model, d_ff, num_experts, top_k, balance, device, dtype: as for `MoE`.
            shared_d_ff: hidden width of the shared expert, where the family has one; None = `d_ff`.
            router_fields: fields of `RouterSpec` to replace the family's.

        Raises:
            SpecError: no such family, or sizes that can't be.
        """
        known = family(name)
        shared = None
        if known.shared != "none":
            shared = SharedSpec(d_ff=shared_d_ff or d_ff, gated_output=known.shared == "gated")
        return cls(
            d_model,
            d_ff,
            router=preset(name, num_experts=num_experts, top_k=top_k, **router_fields),
            experts=known.experts,
            shared=shared,
            balance=balance,
            device=device,
            dtype=dtype,
        )

    @property
    def spec(self) -> RouterSpec:
        """The router's spec."""
        return self.router.spec

    def forward(
        self,
        x: Tensor,
        *,
        token_ids: Tensor | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Route the tokens, run their experts, and add up.

        Args:
            x: [..., D] floating point. The second to last axis is the sequence, for routers that look at one.
            token_ids: [...] integer, for hash routers.
            padding_mask: [...] bool, True = padding: gets no expert, counts in no loss, takes no capacity.

        Returns:
            The shape and dtype of `x`. A token without an expert, or whose experts were all full, gets zero (and the
            shared expert's output, where there is one). A token with NaN or infinite logits gets valid expert ids
            and, where its weights are NaN, a NaN output; other tokens are unharmed.

        Raises:
            InputError: `x`, `token_ids` or `padding_mask` of another shape or dtype than said here.
            BackendError: `batch_invariant` was asked for and can't be kept here.
        """
        self._check(x, token_ids, padding_mask)
        if self.batch_invariant:
            self._check_invariant(x, padding_mask)
        if padding_mask is None and self.shared_expert is None:
            y = run_at_once(x, self.router, self.experts)
            if y is not None:
                return y
        flat = x.reshape(-1, self.d_model)
        routing = self.router(
            flat,
            sequence_length=x.shape[-2] if x.dim() > 1 else 1,
            token_ids=None if token_ids is None else token_ids.reshape(-1),
            is_padding=None if padding_mask is None else padding_mask.reshape(-1),
            keeps_rows=self.experts.passes_over_rows(flat),
        )
        options: dict[str, Any] = {"batch_invariant": True} if self.batch_invariant else {}
        if self.shared_expert is not None:
            options["beside"] = partial(self.shared_expert, **options)
        y = self.experts(flat, routing.plan, routing.choice.combine_weights, self.spec.apply_to, **options)
        result: Tensor = y.reshape(x.shape)
        return result

    def _check(self, x: Tensor, token_ids: Tensor | None, padding_mask: Tensor | None) -> None:
        if x.dim() == 0 or x.shape[-1] != self.d_model:
            raise InputError(
                f"x.shape (={tuple(x.shape)}) must end in d_model (={self.d_model}); "
                f"project x, or build the layer with d_model={x.shape[-1] if x.dim() else '...'}"
            )
        if not x.is_floating_point():
            raise InputError(f"x.dtype (={x.dtype}) must be a floating-point type; embed token ids first")
        for name, value in (("token_ids", token_ids), ("padding_mask", padding_mask)):
            if value is not None and value.shape != x.shape[:-1]:
                raise InputError(
                    f"{name}.shape (={tuple(value.shape)}) must be x.shape without its last axis "
                    f"(={tuple(x.shape[:-1])}); pass one entry per token"
                )
        if padding_mask is not None and padding_mask.dtype != torch.bool:
            raise InputError(
                f"padding_mask.dtype (={padding_mask.dtype}) must be bool, True = padding; compare it first"
            )
        if token_ids is not None and self.spec.vocab_size is not None and token_ids.device.type == "cpu":
            check_token_ids(token_ids, self.spec.vocab_size)

    def _check_invariant(self, x: Tensor, padding_mask: Tensor | None) -> None:
        if padding_mask is not None:
            raise InputError(
                "padding_mask (given) goes another way than the batch-invariant one; leave it out (padding then gets "
                "outputs, which harm no other token)"
            )
        if not (runs_natively(x.device.type, x.dtype) and self.router.decides_at_once(x)):
            raise BackendError(
                f"batch_invariant (=True) can't be kept for {x.dtype} on {x.device.type} with "
                f"training={self.training}, gradients={torch.is_grad_enabled()}; call eval() and run under "
                "torch.no_grad() on a CPU in float32, float16 or bfloat16, with the native library (`headgate doctor`)"
            )


def _resolve_router(router: str | RouterSpec | None, num_experts: int | None, top_k: int | None) -> RouterSpec:
    if router is None or isinstance(router, str):
        if num_experts is None:
            raise SpecError("num_experts (=None) is needed without a RouterSpec; pass MoE(..., num_experts=8)")
        if router is None:
            return RouterSpec(num_experts=num_experts, top_k=2 if top_k is None else top_k)
        return preset(router, num_experts=num_experts, top_k=top_k)
    for name, given in (("num_experts", num_experts), ("top_k", top_k)):
        if given is not None and given != getattr(router, name):
            raise SpecError(
                f"{name} (={given}) must agree with router.{name} (={getattr(router, name)}); give it in one place"
            )
    return router
