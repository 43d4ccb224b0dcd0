"""What each choice adds to a token in blocks whose experts are not called with hidden states, ids and weights.

Each function takes a block apart as its `forward` puts it together; stacked experts run on our kernels, each slot as a
token of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from jaxtyping import Float
from torch import Tensor

from headgate.experts import ExpertWeights
from headgate.integrations.transformers.adapters import run_gated, run_llama4_slots
from headgate.integrations.transformers.backend import Routed, plan_all
from headgate.integrations.transformers.wires import Choice, run_doge_dense


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a block's output is the sum of.

    Attributes:
        slots: [T, K, D], of each choice, weight included.
        shared: [T, D], of what every token gets; None where there is nothing.
        bias: [D], added to each token; None where there is none.
    """

    slots: Float[Tensor, "T K D"]
    shared: Float[Tensor, "T D"] | None = None
    bias: Float[Tensor, " D"] | None = None


def parts_of_doge(block: Any, x: Float[Tensor, "T D"], choice: Choice) -> Parts:
    """An expert is a row to meet and a row to add; beside them is a dense MLP."""
    hidden = (block.down_embed(choice.expert_ids) * x[:, None]).sum(-1)
    scale = block.act_fn(hidden) * choice.combine_weights
    return Parts(slots=scale[..., None] * block.up_embed(choice.expert_ids), shared=run_doge_dense(block, x))


def parts_of_jetmoe(block: Any, x: Float[Tensor, "T D"], choice: Choice) -> Parts:
    """The experts of the feed-forward, and a bias that every token gets."""
    num_tokens, num_slots = choice.expert_ids.shape
    routed = Routed(
        x=x.repeat_interleave(num_slots, dim=0),
        plan=plan_all(choice.expert_ids.reshape(-1, 1), block.router.num_experts),
        combine_weights=choice.combine_weights.reshape(-1, 1),
    )
    y = run_gated(block, routed, ExpertWeights(up=block.input_linear.weight, down=block.output_linear.weight))
    return Parts(slots=y.view(num_tokens, num_slots, -1), bias=block.bias)


def parts_of_llama4(block: Any, x: Float[Tensor, "T D"], choice: Choice) -> Parts:
    """The weight multiplies the expert's input."""
    # Not called as a module, for this call is none of the model's: no hook may see it.
    shared: Tensor = block.shared_expert.forward(x)
    return Parts(slots=run_llama4_slots(block, x, choice.expert_ids, choice.combine_weights), shared=shared)


PARTS: Mapping[str, Callable[[Any, Tensor, Choice], Parts]] = MappingProxyType(
    {"DogeCDMoE": parts_of_doge, "JetMoeMoE": parts_of_jetmoe, "Llama4TextMoe": parts_of_llama4}
)
"""What takes the blocks of each class apart."""


def sum_of(parts: Parts) -> list[Float[Tensor, "T D"]]:
    """Everything that is added to a token, to be summed."""
    others = [parts.shared, None if parts.bias is None else parts.bias.expand_as(parts.slots[:, 0])]
    return [*parts.slots.unbind(1), *(part for part in others if part is not None)]
