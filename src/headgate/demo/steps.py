"""One token's way through a layer in six steps, one plain sentence each, with its real numbers."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from rich.console import Console
from rich.padding import Padding
from rich.text import Text
from torch import Tensor

from headgate.demo.explain import expert_style, visible
from headgate.demo.walk import Passage, TokenWalk
from headgate.spec import RouterSpec

_SHOWN_NUMBERS = 4
_SHOWN_EXPERTS = 16
_BAR_WIDTH = 24


def print_walk(console: Console, walk: TokenWalk, passage: Passage, strings: Sequence[str], spec: RouterSpec) -> None:
    """Print the six steps."""
    console.print()
    token = visible(strings[walk.token])
    console.print(Text.assemble(("One token's way through a layer: ", "bold"), (token, "bold reverse")))
    sentences = (
        ("token in", _token_in(walk, passage, strings), None),
        ("router scores", _router_scores(spec), _score_bars(walk)),
        ("pick top-k", _pick(walk, spec), None),
        ("experts run", _run(walk, passage), _output_lines(walk)),
        ("in parallel", _parallel(passage), None),
        ("combine", _combine(walk, spec), _combine_lines(walk, spec)),
    )
    for number, (name, sentence, picture) in enumerate(sentences, start=1):
        console.print()
        console.print(Text.assemble("  ", (f"{number}. {name}", "bold cyan")))
        console.print(Padding(Text(sentence), (0, 5)))
        if picture is not None:
            console.print(Padding(picture, (0, 7)))


def _token_in(walk: TokenWalk, passage: Passage, strings: Sequence[str]) -> str:
    before = "".join(strings[max(0, walk.token - 6) : walk.token]).replace("\n", " ")
    return (
        f'After "...{before}" comes the token "{strings[walk.token]}"; on its way through the model it is a vector of '
        f"{len(walk.x)} numbers, and layer {passage.layer} receives {_numbers(walk.x)}."
    )


def _router_scores(spec: RouterSpec) -> str:
    experts = f"{spec.num_choices} experts"
    if spec.score == "ones":
        return f"This router computes nothing: a fixed table of token ids decides, so all {experts} score alike."
    how = {
        "softmax": "turns them into shares that add up to 1 (softmax)",
        "sigmoid": "turns each into a number from 0 to 1 (sigmoid)",
        "sqrt_softplus": "makes each positive (square root of softplus)",
        "linear": "leaves them as they are",
    }[spec.score]
    return f"A small matrix, the router, turns the vector into one number for each of the {experts} and {how}:"


def _score_bars(walk: TokenWalk) -> Text:
    scores = walk.scores.tolist()
    largest = max(*(abs(score) for score in scores), 1e-12)
    order = sorted(range(len(scores)), key=lambda expert: -scores[expert])
    shown = sorted(order[:_SHOWN_EXPERTS])
    picture = Text()
    for expert in shown:
        bar = "#" * round(abs(scores[expert]) / largest * _BAR_WIDTH)
        is_chosen = expert in walk.expert_ids
        style = expert_style(expert) if is_chosen else "dim"
        picture.append(f"expert {expert:<3} {scores[expert]:7.4f} {bar}", style)
        picture.append("  <- picked\n" if is_chosen else "\n")
    if len(shown) < len(scores):
        picture.append(f"and {len(scores) - len(shown)} with lower scores\n", "dim")
    picture.rstrip()
    return picture


def _pick(walk: TokenWalk, spec: RouterSpec) -> str:
    chosen = " and ".join(
        f"expert {expert} with weight {weight:.4f}"
        for expert, weight in zip(walk.expert_ids, walk.combine_weights, strict=True)
    )
    how = {
        "top_k": f"The {spec.top_k} best are kept" if spec.top_k > 1 else "The best one is kept",
        "top_p": f"The best are kept until their shares reach {spec.top_p} together, at most {spec.top_k}",
        "threshold": f"Those that reach {spec.threshold} are kept, at most {spec.top_k}",
        "expert_choice": "Each expert takes the tokens that reach its own learned threshold",
        "sinkhorn": f"The {spec.top_k} best are kept (in training, such that all experts get equally many)",
        "hash": "The table says who",
        "sparsemixer": f"The {spec.top_k} best are kept, one after the other",
    }[spec.selection]
    bias = " (after adding a bias that keeps the load even)" if spec.selection_bias else ""
    idle = spec.num_choices - len(walk.expert_ids)
    return f"{how}{bias}: {chosen}. The other {idle} cost nothing for this token, which is the point."


def _run(walk: TokenWalk, passage: Passage) -> str:
    many = len(walk.expert_ids) > 1
    shared = ", besides the shared expert that every token gets" if walk.shared_output is not None else ""
    who = f"Each of these {len(walk.expert_ids)} experts" if many else "That expert"
    return f"{who} is a small network of its own; it turns the {len(walk.x)} numbers into {len(walk.x)} others{shared}:"


def _output_lines(walk: TokenWalk) -> Text:
    picture = Text()
    for expert, output in zip(walk.expert_ids, walk.outputs, strict=True):
        picture.append(f"expert {expert:<3}", expert_style(expert))
        picture.append(f" -> {_numbers(output)}\n")
    if walk.shared_output is not None:
        picture.append(f"shared     -> {_numbers(walk.shared_output)}\n")
    picture.rstrip()
    return picture


def _parallel(passage: Passage) -> str:
    counts = passage.routing.expert_counts.tolist()
    listed = ", ".join(f"expert {expert}: {count}" for expert, count in enumerate(counts[:_SHOWN_EXPERTS]))
    more = ", ..." if len(counts) > _SHOWN_EXPERTS else ""
    return (
        f"All {len(passage.token_ids)} tokens of this text go through the layer at once: sorted by expert, each expert "
        f"works through its own pile in one go ({listed}{more})."
    )


def _combine(walk: TokenWalk, spec: RouterSpec) -> str:
    parts = "the experts' vectors, each times its weight, are added up"
    if spec.apply_to == "input":
        parts = "the experts' vectors are added up (this router's weights went into the experts' inputs)"
    if walk.shared_output is not None:
        parts += ", and the shared expert's on top"
    return f"Finally {parts}; done by hand for the first of the {len(walk.x)} numbers:"


def _combine_lines(walk: TokenWalk, spec: RouterSpec) -> Text:
    terms = [] if walk.shared_output is None else [f"{walk.shared_output[0]:.4f} (shared)"]
    for weight, output in zip(walk.combine_weights, walk.outputs, strict=True):
        value = f"({output[0]:.4f})" if output[0] < 0 else f"{output[0]:.4f}"
        terms.append(value if spec.apply_to == "input" else f"{weight:.4f} * {value}")
    return Text.assemble(
        f"{' + '.join(terms)} = {walk.combined[0]:.4f}\n",
        f"all of them: {_numbers(walk.combined)}\n",
        ("checked: ", "green"),
        f"the layer itself put out the same vector (largest difference {walk.largest_difference:.1e})",
    )


def _numbers(vector: Float[Tensor, " D"]) -> str:
    shown = ", ".join(f"{value:.3f}" for value in vector[:_SHOWN_NUMBERS].tolist())
    return f"[{shown}, ...]"
