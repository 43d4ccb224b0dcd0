"""Follow one token through one routed layer, with every number that matters, and check that they add up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headgate.demo.corpus import Corpus
from headgate.demo.tokenizer import END_ID, Tokenizer, token_strings
from headgate.dispatch import find_drops, plan_token_choice
from headgate.flow import Routing
from headgate.nn import MoE, tap
from headgate.observe.record import choice_per_token, selection_scores

PASSAGE_TOKENS = 48
_CONTEXT_TOKENS = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A piece of held-out text as one layer routed it.

    Attributes:
        layer: index of the layer.
        path: its module path.
        token_ids: [T] int64.
        start: the first token to show; those before it are context.
        document: where the text is from.
        expert_ids: [T, K] int64, best first; -1 = none.
        combine_weights: [T, K].
        is_dropped: [T, K] bool.
        routing: the layer's decision for all T tokens.
        x: [T, D], the layer's input.
        y: [T, D], its output.
    """

    layer: int
    path: str
    token_ids: Int[Tensor, " T"]
    start: int
    document: str
    expert_ids: Int[Tensor, "T K"]
    combine_weights: Float[Tensor, "T K"]
    is_dropped: Bool[Tensor, "T K"]
    routing: Routing
    x: Float[Tensor, "T D"]
    y: Float[Tensor, "T D"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenWalk:
    """One token's way through one layer.

    Attributes:
        token: its place in the passage.
        x: [D], the vector that came in.
        scores: [E], what the router gave each expert.
        select_scores: [E], what the selection ranked.
        expert_ids: the experts that ran for it, best first.
        combine_weights: their weights.
        outputs: one [D] per expert.
        shared_output: [D], of the shared expert; None where there is none.
        combined: [D], the weighted sum of the outputs, plus the shared expert's.
        largest_difference: between `combined` and what the layer itself put out.
    """

    token: int
    x: Float[Tensor, " D"]
    scores: Float[Tensor, " E"]
    select_scores: Float[Tensor, " E"]
    expert_ids: tuple[int, ...]
    combine_weights: tuple[float, ...]
    outputs: tuple[Float[Tensor, " D"], ...]
    shared_output: Float[Tensor, " D"] | None
    combined: Float[Tensor, " D"]
    largest_difference: float


@torch.no_grad()
def route_passage(model: nn.Module, corpus: Corpus, tokenizer: Tokenizer, *, layer: int, device: str) -> Passage:
    """Run a passage of held-out text through the model and keep what one layer saw and did.

    Args:
        model: in evaluation mode.
        corpus: whose held-out text to use.
        tokenizer: of that text.
        layer: index of the layer among the routed ones.
        device: the model's.
    """
    token_ids, start, document = choose_passage(corpus, tokenizer)
    seen: dict[str, Tensor] = {}

    def keep(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        seen["x"], seen["y"] = args[0][0], output[0]

    with tap(model) as tape:
        path = list(tape)[layer]
        hook = model.get_submodule(path).register_forward_hook(keep)
        try:
            model(token_ids[None].to(device))
        finally:
            hook.remove()
    routing = tape[path][0]
    expert_ids, combine_weights, is_dropped = choice_per_token(routing)
    return Passage(
        layer=layer,
        path=path,
        token_ids=token_ids,
        start=start,
        document=document,
        expert_ids=expert_ids,
        combine_weights=combine_weights,
        is_dropped=is_dropped,
        routing=routing,
        x=seen["x"],
        y=seen["y"],
    )


def choose_passage(corpus: Corpus, tokenizer: Tokenizer) -> tuple[Int[Tensor, " T"], int, str]:
    """Pick a paragraph of the longest held-out topic, and what stands before it as context.

    Returns:
        token_ids: [T] int64, context and paragraph.
        start: where the paragraph begins.
        document: its name.
    """
    lengths = corpus.held_out_offsets.diff().tolist()
    is_topic = [name.startswith("topic ") for name in corpus.held_out_names]
    document = max(range(len(lengths)), key=lambda index: (is_topic[index], lengths[index]))
    first = int(corpus.held_out_offsets[document])
    ids = corpus.held_out_ids[first : first + lengths[document] - 1]
    strings = token_strings(tokenizer, ids.tolist())
    start, end = find_paragraph(strings)
    begin = max(0, start - _CONTEXT_TOKENS)
    return ids[begin:end], start - begin, corpus.held_out_names[document]


def find_paragraph(strings: Sequence[str]) -> tuple[int, int]:
    """Find the paragraph with the most words among its first `PASSAGE_TOKENS` tokens, and cut it to as many.

    Returns:
        The place of its first token, and that after its last.
    """
    blank = [i for i in range(1, len(strings)) if "".join(strings[i - 1 : i + 1]).rstrip(" ").endswith("\n\n")]
    spans = [(begin + 1, min(end, begin + 1 + PASSAGE_TOKENS)) for begin, end in pairwise([-1, *blank, len(strings)])]
    return max(spans, key=lambda span: sum(map(is_word, strings[span[0] : span[1]])))


def is_word(string: str) -> bool:
    """Whether a token is the beginning of a word, or all of it."""
    return string.startswith(" ") and string[1:].isalpha()


def choose_token(passage: Passage, strings: list[str]) -> int:
    """Pick the token to follow: among those that got an expert, the longest word of the passage's second half.

    Args:
        passage: where to look.
        strings: the text of each of its tokens.
    """
    has_row = passage.routing.plan.token_offsets.diff().cpu() > 0
    middle = (passage.start + len(strings)) // 2
    candidates = [t for t in range(middle, len(strings)) if has_row[t] and passage.token_ids[t] != END_ID]
    words = [t for t in candidates if is_word(strings[t])]
    return max(words or candidates or [middle], key=lambda t: (len(strings[t]), -t))


@torch.no_grad()
def walk_token(moe: MoE, passage: Passage, token: int) -> TokenWalk:
    """Do by hand what the layer did for one token, and compare.

    Args:
        moe: the layer of the passage.
        passage: what it was given and gave.
        token: its place in the passage.
    """
    x = passage.x[token]
    kept = (passage.expert_ids[token] >= 0) & ~passage.is_dropped[token]
    expert_ids = passage.expert_ids[token][kept].tolist()
    weights = passage.combine_weights[token][kept]
    outputs = [_run_expert(moe, x, expert, float(weight)) for expert, weight in zip(expert_ids, weights, strict=True)]
    shared = None if moe.shared_expert is None else moe.shared_expert(x[None])[0]
    combined = torch.zeros_like(x) if shared is None else shared
    for weight, output in zip(weights, outputs, strict=True):
        combined = combined + (output if moe.spec.apply_to == "input" else weight * output)
    ranked = selection_scores(passage.routing, spec=moe.spec, selection_bias=moe.router.selection_bias)
    difference = float((combined - passage.y[token]).abs().max())
    bound = _rounding_bound(moe, [*outputs, combined])
    assert difference <= bound, f"combined by hand and by the layer differ by {difference}, bound {bound}"
    return TokenWalk(
        token=token,
        x=x,
        scores=passage.routing.scores[token],
        select_scores=ranked[token],
        expert_ids=tuple(expert_ids),
        combine_weights=tuple(weights.tolist()),
        outputs=tuple(outputs),
        shared_output=shared,
        combined=combined,
        largest_difference=difference,
    )


def _run_expert(moe: MoE, x: Float[Tensor, " D"], expert: int, weight: float) -> Float[Tensor, " D"]:
    """Run one expert on one token: its raw output, or, where weights multiply inputs, that of the weighted input."""
    ids = torch.tensor([[expert]], device=x.device)
    plan = plan_token_choice(ids, find_drops(ids, None), num_experts=moe.spec.num_choices, is_dropless=False)
    is_on_input = moe.spec.apply_to == "input"
    row_weight = torch.full((1, 1), weight if is_on_input else 1.0, device=x.device)
    y: Tensor = moe.experts(x[None], plan, row_weight, moe.spec.apply_to)
    return y[0]


def _rounding_bound(moe: MoE, vectors: list[Tensor]) -> float:
    """Bound the difference between two orders of summation: 8 eps sqrt(terms) times the largest value.

    Terms: D products up, F down, K in the combine; 8 leaves room for the nonlinearity's slope and cancellation.
    """
    terms = moe.d_model + moe.experts.d_ff + moe.spec.top_k
    largest = max(float(vector.abs().max()) for vector in vectors)
    return 8.0 * torch.finfo(torch.float32).eps * math.sqrt(terms) * max(1.0, largest)
