"""Router logits of transformers, and when they do not say the choice."""

import pytest
import torch

from foreign import SHAPE, assert_holds, save_pt
from headgate.errors import ArtifactError, InputError
from headgate.observe.importers.router_logits import import_router_logits
from headgate.observe.importers.shape import RouterShape


def logits(tokens=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(tokens, 8, generator=generator) for _ in range(3))


def test_router_logits_are_routed_by_the_family(tmp_path):
    path = save_pt(tmp_path / "a.pt", logits())
    trace = import_router_logits(path, SHAPE, router="mixtral")
    ids = torch.stack([row.topk(2).indices for row in logits()], dim=1)
    assert_holds(trace, ids, tmp_path)
    weights = torch.stack([row.topk(2).values.softmax(-1) for row in logits()])
    # float16 keeps 11 bits.
    assert (trace.topk_weights.float() - weights).abs().max() < 2**-11
    assert torch.equal(trace.router_logits, torch.stack(logits()).half())


def test_router_logits_with_padding(tmp_path):
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    value = {"router_logits": logits(), "attention_mask": mask, "input_ids": torch.arange(6).view(2, 3)}
    trace = import_router_logits(save_pt(tmp_path / "a.pt", value), SHAPE, router="qwen3_moe")
    assert trace.phase.tolist() == [0, 0, 3, 0, 0, 0]
    assert trace.seq_offsets.tolist() == [0, 3, 6]
    assert trace.counts.sum().item() == 5 * 3 * 2


@pytest.mark.parametrize(
    ("value", "router", "error", "said"),
    [
        (logits(), None, InputError, "router logits do not say how the model chooses from them; name its family by"),
        (
            logits(),
            "minimax_m2",
            InputError,
            r"chooses by more than its logits \(a selection bias\), so they do",
        ),
        (logits(), "expert_choice", InputError, r"\(selection 'expert_choice', capacity\)"),
        (
            tuple(row.softmax(1) for row in logits()),
            "mixtral",
            InputError,
            "are not negative and sum to 1, so these are",
        ),
        (tuple(row.softmax(1).bfloat16() for row in logits()), "mixtral", InputError, "so these are probabilities"),
        ((torch.full((2, 8), float("nan")),) * 3, "mixtral", InputError, "entry 0 holds NaN or infinite logits"),
        (
            logits()[:2],
            "mixtral",
            InputError,
            r"has 2 entries for the model's routed layers, of which it has 3; entry i need not be layer",
        ),
        ((), "mixtral", ArtifactError, "holds no tuple of router logits"),
        ((torch.zeros(2, 8), torch.zeros(3, 8)), "mixtral", ArtifactError, "are of different shapes, or empty"),
        (
            {"router_logits": logits(), "attention_mask": torch.ones(2, 2, dtype=torch.int64)},
            "mixtral",
            ArtifactError,
            r"attention_mask is not \(batch, sequence\) of the 6 routed tokens",
        ),
    ],
)
def test_router_logits_that_do_not_say_the_choice(tmp_path, value, router, error, said):
    with pytest.raises(error, match=said):
        import_router_logits(save_pt(tmp_path / "a.pt", value), SHAPE, router=router)


def test_router_logits_of_another_model(tmp_path):
    with pytest.raises(InputError, match=r"the logits are of 8 experts, and the model has 9; give its config"):
        import_router_logits(save_pt(tmp_path / "a.pt", logits()), RouterShape(num_experts=9), router="mixtral")
