"""RouterSpec: JSON, what can't be, and what is said about it."""

import dataclasses

import pytest

import headgate
from headgate import Capacity, GroupLimit, RouterSpec, SpecError


def spec(**fields) -> RouterSpec:
    return RouterSpec(**{"num_experts": 8, "top_k": 2, **fields})


IMPOSSIBLE = [
    ({"num_experts": 0}, r"num_experts \(=0\) must be at least 1"),
    ({"num_zero_experts": -1}, r"num_zero_experts \(=-1\) must be at least 0"),
    ({"top_k": 0}, r"top_k \(=0\) must be at least 1"),
    ({"top_k": 9}, r"top_k \(=9\) must be at most the number of experts \(=8\); lower top_k or add experts"),
    ({"score": "tanh"}, r"score \(='tanh'\) is not known; use one of 'softmax', 'sigmoid'"),
    ({"selection": "best"}, r"selection \(='best'\) is not known"),
    ({"jitter": 1.0}, r"jitter \(=1\.0\) must be in \[0, 1\)"),
    ({"epsilon": -1e-9}, r"epsilon \(=-1e-09\) must be at least 0"),
    ({"norm_order": 0.0}, r"norm_order \(=0\.0\) must be positive"),
    ({"second_expert": "sampled", "top_k": 3}, r"needs top_k 2, not 3; use 'best'"),
    ({"score": "linear"}, r"may be negative"),
    ({"score": "ones"}, r"can't rank experts for selection 'top_k'"),
    ({"score": "ones", "selection": "hash", "vocab_size": 9, "normalise": "softmax"}, "no logits to normalise"),
    ({"selection": "threshold"}, "needs threshold"),
    ({"selection": "hash", "vocab_size": 9, "select_on": "logits"}, r"select_on \(='logits'\) has no use"),
    ({"selection": "top_p"}, "needs top_p"),
    ({"selection": "hash"}, "needs vocab_size"),
    ({"selection": "expert_choice", "normalise": "none"}, "needs capacity"),
    ({"threshold": 0.5}, r"threshold \(=0\.5\) has no use in selection 'top_k'"),
    ({"selection": "top_p", "top_p": 1.5}, r"top_p \(=1\.5\) must be in \(0, 1\]"),
    ({"selection": "top_p", "top_p": 0.5, "score": "sigmoid"}, "adds up probabilities"),
    ({"selection": "hash", "vocab_size": 0}, r"vocab_size \(=0\) must be at least 1"),
    ({"selection": "sparsemixer"}, "defined for top_k 1 or 2"),
    ({"selection": "sinkhorn", "selection_bias": True}, "ranks nothing that selection_bias"),
    ({"selection": "sinkhorn", "sinkhorn_iterations": 0}, "must be at least 1; 8 is usual"),
    ({"selection": "expert_choice", "capacity": Capacity(factor=1.0)}, "its weights are scores"),
    ({"group_limit": GroupLimit(num_groups=3, num_kept=1)}, r"num_groups \(=3\) must divide"),
    ({"group_limit": GroupLimit(num_groups=8, num_kept=4)}, "needs groups of at least 2 experts, not 1"),
    ({"group_limit": GroupLimit(num_groups=8, num_kept=1, group_score="max")}, r"\(=1 \* 1\); keep more groups"),
]


@pytest.mark.parametrize(("fields", "message"), IMPOSSIBLE)
def test_what_can_not_be_is_refused_with_the_remedy(fields, message):
    with pytest.raises(SpecError, match=message):
        spec(**fields)


def test_nested_values_are_checked_too():
    with pytest.raises(SpecError, match=r"num_kept \(=3\) must be between 1 and num_groups \(=2\)"):
        GroupLimit(num_groups=2, num_kept=3)
    with pytest.raises(SpecError, match=r"group_score \(='mean'\) is not known"):
        GroupLimit(num_groups=2, num_kept=1, group_score="mean")
    with pytest.raises(SpecError, match=r"drop_rule \(='random'\) is not known"):
        Capacity(factor=1.0, drop_rule="random")
    with pytest.raises(SpecError, match=r"capacity eval_factor \(=inf\) must be positive and finite"):
        Capacity(factor=1.0, eval_factor=float("inf"))


@pytest.mark.parametrize("name", headgate.preset_names())
def test_every_preset_survives_json(name):
    fields = {"vocab_size": 100} if "hash" in name else {}
    router = headgate.preset(name, num_experts=32, **fields)
    assert RouterSpec.from_json(router.to_json()) == router
    assert hash(router) == hash(RouterSpec.from_dict(router.to_dict()))


def test_json_of_another_version_is_refused():
    values = spec().to_dict() | {"temperature": 2}
    with pytest.raises(SpecError, match=r"unknown RouterSpec fields \['temperature'\]"):
        RouterSpec.from_dict(values)


def test_specs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec().top_k = 3


@pytest.mark.parametrize(
    ("capacity", "training", "size"),
    [
        (Capacity(factor=1.0), True, 3),
        (Capacity(factor=1.25), True, 4),
        (Capacity(factor=1.25, eval_factor=2.0), False, 5),
        (Capacity(factor=1.25, eval_factor=2.0), True, 4),
        (Capacity(absolute=7), True, 7),
        (Capacity(absolute=7, eval_factor=1.0), False, 3),
        (Capacity(absolute=0), False, 0),
    ],
)
def test_capacity_in_rows(capacity, training, size):
    assert capacity.size(num_tokens=10, top_k=2, num_experts=8, training=training) == size


def test_a_preset_takes_sizes_and_replacements_and_says_what_it_does_not_know():
    assert headgate.preset("longcat_flash", num_experts=16, top_k=4).num_zero_experts == 8
    assert headgate.preset("longcat_flash", num_experts=16, top_k=4, num_zero_experts=3).num_choices == 19
    assert headgate.preset("qwen3_moe", num_experts=16, normalise="sum").normalise == "sum"
    with pytest.raises(SpecError, match=r"preset \(='deepseek_v33'\) is not known; did you mean deepseek_v3"):
        headgate.preset("deepseek_v33", num_experts=8)
    with pytest.raises(SpecError, match=r"preset 'mixtral': .*temperature"):
        headgate.preset("mixtral", num_experts=8, temperature=1.0)
    with pytest.raises(SpecError, match="preset 'olmoe': top_k"):
        headgate.preset("olmoe", num_experts=4)
    with pytest.raises(SpecError, match="did you mean"):
        headgate.family("zzzzzz")


def test_every_family_says_what_it_is():
    for name in headgate.preset_names():
        assert len(headgate.family(name).summary) > 20
