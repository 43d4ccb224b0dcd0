"""What each mistake with a layer is told."""

import re

import pytest
import torch

import headgate
from headgate.errors import InputError, SpecError

D, F, E, K = 16, 24, 8, 2


ERRORS = [
    (lambda: headgate.MoE(D, F, num_experts=4, top_k=5), r"top_k \(=5\) must be at most the number of experts \(=4\)"),
    (lambda: headgate.MoE(D, F, num_experts=4, top_k=0), r"top_k \(=0\) must be at least 1"),
    (lambda: headgate.MoE(D, F, num_experts=0, top_k=1), r"num_experts \(=0\) must be at least 1"),
    (lambda: headgate.MoE(0, F, num_experts=4), r"d_model \(=0\) must be at least 1"),
    (lambda: headgate.MoE(D, F), r"num_experts \(=None\) is needed without a RouterSpec"),
    (
        lambda: headgate.MoE(D, F, num_experts=4, router="mixtrl"),
        r"preset \(='mixtrl'\) is not known; did you mean mixtral",
    ),
    (lambda: headgate.MoE(D, F, num_experts=4, router=headgate.preset("mixtral", num_experts=8)), "must agree with"),
    (lambda: headgate.Capacity(factor=-1.0), r"capacity factor \(=-1\.0\) must be positive"),
    (lambda: headgate.Capacity(absolute=-1), r"capacity absolute \(=-1\) must be at least 0"),
    (lambda: headgate.Capacity(), "give one"),
    (lambda: headgate.Capacity(factor=1.0, absolute=3), "give one"),
    (lambda: headgate.ExpertSpec(clamp=-2.0), r"clamp \(=-2\.0\) must be positive"),
    (lambda: headgate.ExpertSpec(gated=False, interleaved=True), "belong to gated experts"),
    (lambda: headgate.ExpertSpec(activation="relu", sigmoid_slope=2.0), "belongs to 'silu'"),
    (lambda: headgate.SharedSpec(d_ff=0), r"shared d_ff \(=0\) must be at least 1"),
]


@pytest.mark.parametrize(("build", "message"), ERRORS)
def test_impossible_layers_are_refused_in_the_constructor(build, message):
    with pytest.raises(SpecError, match=message):
        build()


def test_unusable_input_is_refused_with_the_remedy():
    layer = headgate.MoE(D, F, num_experts=E, top_k=K)
    cases = [
        ({"x": torch.randn(3, D + 1)}, r"x.shape \(=\(3, 17\)\) must end in d_model \(=16\)"),
        ({"x": torch.tensor(1.0)}, "must end in d_model"),
        ({"x": torch.zeros(3, D, dtype=torch.int64)}, "must be a floating-point type; embed token ids first"),
        ({"x": torch.randn(3, D).double()}, r"x.dtype \(=torch.float64\) must be that of the experts' weights"),
        ({"x": torch.randn(3, D), "token_ids": torch.zeros(4).long()}, r"token_ids.shape \(=\(4,\)\)"),
        ({"x": torch.randn(3, D), "padding_mask": torch.zeros(3)}, "must be bool, True = padding"),
    ]
    for arguments, message in cases:
        with pytest.raises(InputError, match=message):
            layer(**arguments)
    hashed = headgate.MoE(D, F, router=headgate.preset("hash", num_experts=E, vocab_size=10))
    with pytest.raises(InputError, match=re.escape("call moe(x, token_ids=ids)")):
        hashed(torch.randn(3, D))
    with pytest.raises(InputError, match=r"token_ids \(=0\.\.12\) must be in \[0, vocab_size \(=10\)\)"):
        hashed(torch.randn(2, D), token_ids=torch.tensor([0, 12]))
