"""`MixtureOfDepths`: a block that only some tokens of each sequence pass through."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headgate.errors import InputError
from headgate.flow import ExpertChoice, Routing
from headgate.nn.router import Router
from headgate.spec import Capacity, RouterSpec


class MixtureOfDepths(nn.Module):
    """Let the block work on the tokens that its router picks; the others skip it.

    y[t] = x[t] + r[t] * block(picked tokens)[t] for a picked token, y[t] = x[t] for the others. Expert choice with
    one expert, which is the block.

    In training the block takes the best C tokens of each sequence, which looks ahead; in `eval()` it takes each
    token whose router weight reaches a threshold learned in training, which doesn't. Build it with
    `causal_inference=False` to take the best C there too.

    Args:
        block: maps [B, C, D] to [B, C, D], the block's change to the residual stream; the picked tokens come in
            their order in the sequence. May be attention, an MLP, an MoE, or all of them.
        d_model: D.
        capacity_factor: the fraction of a sequence that the block takes; the paper's best is 0.125.
        score: the router weight r from the logit: "linear", the logit itself, as published, or "sigmoid".
        causal_inference: see above.
        device, dtype: as for `torch.nn.Linear`.

    Raises:
        SpecError: a capacity factor that isn't positive.

    References:
        Raposo et al., "Mixture-of-Depths", 2024, https://arxiv.org/abs/2404.02258, sections 3.4 and 3.5.
    """

    def __init__(
        self,
        block: nn.Module,
        d_model: int,
        *,
        capacity_factor: float = 0.125,
        score: str = "linear",
        causal_inference: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        spec = RouterSpec(
            num_experts=1,
            top_k=1,
            score=score,  # type: ignore[arg-type]  # RouterSpec checks it.
            selection="expert_choice",
            normalise="none",
            capacity=Capacity(factor=capacity_factor, per="sequence"),
            causal_inference=causal_inference,
        )
        self.router = Router(d_model, spec, device=device, dtype=dtype)
        self.block = block
        self.d_model = d_model

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on the picked tokens and add its weighted change.

        Args:
            x: [B, S, D].

        Returns:
            [B, S, D] in the dtype of `x`.

        Raises:
            InputError: another shape, or a block that changes the shape.
        """
        if x.dim() != 3 or x.shape[-1] != self.d_model:
            raise InputError(
                f"x.shape (={tuple(x.shape)}) must be [B, S, d_model (={self.d_model})]; add the batch axis"
            )
        flat = x.reshape(-1, self.d_model)
        routing: Routing = self.router(flat, sequence_length=x.shape[1])
        # Rows of a single expert in plan order are ranked by score; the block wants them in sequence order.
        token_ids = routing.plan.token_of_row.sort().values
        changed = self._run_block(flat, token_ids, routing, num_sequences=x.shape[0], sequence_length=x.shape[1])
        weights = _weight_of_token(routing, num_tokens=flat.shape[0]).index_select(0, token_ids)
        y = flat.index_add(0, token_ids, (weights[:, None] * changed.to(weights.dtype)).to(flat.dtype))
        return y.reshape(x.shape)

    def _run_block(
        self,
        flat: Float[Tensor, "T D"],
        token_ids: Int[Tensor, " R"],
        routing: Routing,
        *,
        num_sequences: int,
        sequence_length: int,
    ) -> Float[Tensor, "R D"]:
        picked = flat.index_select(0, token_ids)
        if isinstance(routing.choice, ExpertChoice):
            # Every sequence gives equally many tokens.
            batch = picked.reshape(num_sequences, -1, self.d_model) if num_sequences else picked[None]
            return self._call_block(batch) if batch.numel() else picked
        counts = torch.bincount(token_ids.div(max(sequence_length, 1), rounding_mode="floor"), minlength=num_sequences)
        parts = [self._call_block(part[None]) for part in torch.split(picked, counts.tolist()) if part.shape[0]]
        return torch.cat(parts) if parts else picked

    def _call_block(self, batch: Float[Tensor, "n C D"]) -> Float[Tensor, "m D"]:
        changed = self.block(batch)
        if changed.shape != batch.shape:
            raise InputError(
                f"block output (={tuple(changed.shape)}) must have the shape of its input {tuple(batch.shape)}"
            )
        result: Tensor = changed.reshape(-1, self.d_model)
        return result


def _weight_of_token(routing: Routing, *, num_tokens: int) -> Float[Tensor, " T"]:
    """Each token's router weight, 0 where it skips the block."""
    weights = routing.choice.combine_weights
    if isinstance(routing.choice, ExpertChoice):
        return weights.new_zeros(num_tokens).index_add(0, routing.choice.token_ids.flatten(), weights.flatten())
    return weights.flatten()
