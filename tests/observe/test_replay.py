"""Replay: the recorded experts, the model's own weights, gradients, recomputation, and every mismatch by name."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import headgate
from headgate.errors import InputError
from headgate.observe.pieces import select

D = 8
IDS = torch.arange(12).view(3, 4)


class Block(nn.Module):
    def __init__(self, router, **options) -> None:
        super().__init__()
        spec = headgate.preset(router, num_experts=6, top_k=1 if router == "switch" else 2, **options)
        self.moe = headgate.MoE(D, 12, router=spec)

    def forward(self, x, padding=None, token_ids=None):
        return x + self.moe(x, padding_mask=padding, token_ids=token_ids)


class Model(nn.Module):
    def __init__(self, router="mixtral", recompute=None, **options) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(12, D)
        self.layers = nn.ModuleList(Block(router, **options) for _ in range(2))
        self.recompute = recompute

    def forward(self, ids, padding=None):
        x = self.embed(ids)
        for layer in self.layers:
            if self.recompute is None:
                x = layer(x, padding, ids if layer.moe.spec.vocab_size else None)
            else:
                x = checkpoint(layer, x, padding, use_reentrant=self.recompute)
        return x


def record(model, *passes, **options):
    with torch.no_grad(), headgate.tap(model) as tape:
        for ids in passes:
            model(ids, **options)
    return headgate.trace_of(model, tape, token_ids=torch.cat(passes))


def chosen(model, *passes, trace, **options):
    with headgate.replay(model, trace), headgate.tap(model) as tape:
        for ids in passes:
            model(ids, **options)
    return torch.stack([torch.cat([routing.choice.expert_ids for routing in found]) for found in tape.values()])


@pytest.mark.parametrize(
    ("router", "options"),
    [
        ("mixtral", {}),
        ("gpt_oss", {}),
        ("qwen3_moe", {}),
        ("deepseek_v3", {"group_limit": headgate.GroupLimit(num_groups=3, num_kept=1, group_score="max")}),
        ("switch", {"capacity": headgate.Capacity(factor=0.7)}),
        ("nllb_moe", {}),
        ("hash", {"vocab_size": 12}),
        ("top_p", {}),
        ("expert_choice", {}),
        ("expert_choice", {"causal_inference": False}),
    ],
)
def test_a_model_that_replays_itself_changes_nothing(router, options):
    model = Model(router, **options).eval()
    trace = record(model, IDS)
    # With a graph both runs go operation by operation, so even the bits are the same.
    want = model(IDS)
    with headgate.replay(model, trace, token_ids=IDS):
        found = model(IDS)
    if trace.metadata["layers"][0]["router"]["selection"] == "expert_choice":
        # The contributions of a token are added in another order: two float32 sums of up to E terms.
        torch.testing.assert_close(found, want, rtol=0, atol=6 * 2**-24 * want.abs().max().item() * 4)
    else:
        assert torch.equal(found, want)


def test_another_model_takes_the_recorded_experts_with_its_own_weights():
    trace = record(Model().eval(), IDS)
    other = Model()
    torch.manual_seed(1)
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    with torch.no_grad(), headgate.tap(other.eval()) as free:
        other(IDS)
    with headgate.replay(other, trace), headgate.tap(other) as tape:
        other(IDS)
    first = tape["layers.0.moe"][0]
    assert not torch.equal(free["layers.0.moe"][0].choice.expert_ids, trace.topk_ids[0])
    assert torch.equal(first.choice.expert_ids, trace.topk_ids[0])
    scores = first.logits.softmax(1).gather(1, trace.topk_ids[0])
    torch.testing.assert_close(first.choice.combine_weights, scores / scores.sum(1, keepdim=True))


def gradients(model, *passes, trace=None):
    model.zero_grad()
    if trace is None:
        for ids in passes:
            model(ids).square().sum().backward()
    else:
        with headgate.replay(model, trace):
            losses = [model(ids).square().sum() for ids in passes]
            # Both graphs at once, the later one first or last: a repeated pass must get its own tokens.
            torch.stack(losses).sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_are_those_of_the_plain_model_also_under_recomputation(reentrant):
    model = Model().train()
    trace = record(model, IDS[:2], IDS[1:])
    want = gradients(model, IDS[:2], IDS[1:])
    assert all(gradient.abs().max() > 0 for gradient in want)
    model.recompute = reentrant
    for found, wanted in zip(gradients(model, IDS[:2], IDS[1:], trace=trace), want, strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_recomputed_pass_gets_its_own_tokens():
    source = Model().eval()
    first, second = IDS[:1], IDS[1:2]
    # What was recorded for other tokens, so that only the right part of the trace gives these gradients.
    trace = record(source, IDS[2:], IDS[:1])
    model = Model(recompute=False).train()
    plain = Model().train()
    want = [torch.zeros_like(parameter) for parameter in plain.parameters()]
    for sequence, ids in enumerate((first, second)):
        part = gradients(plain, ids, trace=select(trace, sequences=[sequence]))
        want = [total + gradient for total, gradient in zip(want, part, strict=True)]
    for found, wanted in zip(gradients(model, first, second, trace=trace), want, strict=True):
        torch.testing.assert_close(found, wanted)


def test_padding_takes_no_recorded_token():
    model = Model().eval()
    padding = torch.tensor([[False, False, True, True], [False] * 4, [False, True, True, True]])
    trace = record(model, IDS, padding=padding)
    assert trace.phase.tolist() == (padding.flatten() * 3).tolist()
    found = chosen(model, IDS, trace=trace, padding=padding)
    assert torch.equal(found[:, ~padding.flatten()], trace.topk_ids[:, ~padding.flatten()])
    assert (found[:, padding.flatten()] == -1).all()


def test_passes_may_be_cut_otherwise_and_repeated():
    model = Model().eval()
    trace = record(model, IDS)
    assert torch.equal(chosen(model, IDS[:1], IDS[1:], trace=trace), trace.topk_ids)
    assert torch.equal(chosen(model, IDS, IDS, trace=trace), trace.topk_ids.repeat(1, 2, 1))


def test_nothing_stays_behind():
    model = Model().eval()
    trace = record(model, IDS)

    def fail():
        with headgate.replay(model, trace):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert all(layer.moe.router.replayed is None for layer in model.layers)


def test_an_imported_trace_is_matched_by_decoder_layer():
    model = Model().eval()
    trace = record(model, IDS)
    bare = dataclasses.replace(trace, metadata={}, is_dropped=None, topk_weights=None)
    assert torch.equal(chosen(model, IDS, trace=bare), trace.topk_ids)
    moved = dataclasses.replace(bare, layer_index=bare.layer_index + 1)
    with pytest.raises(
        InputError, match=r"^the model's routed layers are the decoder layers \[0, 1\], and the trace's"
    ):
        chosen(model, IDS, trace=moved)


def renamed(trace, **changes):
    layers = [{**layer, **changes} for layer in trace.metadata["layers"]]
    return dataclasses.replace(trace, metadata={**trace.metadata, "layers": layers})


def test_every_mismatch_is_named():
    model = Model().eval()
    trace = record(model, IDS)
    spec = trace.metadata["layers"][0]["router"]
    for other, said in (
        (
            select(trace, layers=[0]),
            r"the recording lacks \['layers.1.moe'\], and the model lacks \[\]; replay what this",
        ),
        (renamed(trace, router={**spec, "num_experts": 7}), "layers.0.moe has 6 experts, and the trace 7; replay a"),
        (renamed(trace, router={**spec, "top_k": 1}), "layers.0.moe chooses k = 2 experts, and the trace 1; replay a"),
        (
            dataclasses.replace(renamed(trace, router=None), topk_ids=trace.topk_ids + 2),
            r"layers.0.moe has 6 experts, and the trace [78]",
        ),
        (
            select(trace, sequences=[0]),
            "layers.0.moe routes 12 tokens, and 4 of the recorded 4 are left; run the passes",
        ),
        (select(trace, sequences=[]), "the trace has no tokens, so there is nothing to replay; record the choices"),
    ):
        with pytest.raises(InputError, match=said):
            chosen(model, IDS, trace=other)
    with pytest.raises(InputError, match=r"^layers.0.moe routed 8 of the recorded 12 tokens; run all the passes that"):
        chosen(model, IDS[:2], trace=trace)


def test_other_tokens_are_noticed_where_they_are_given():
    model = Model().eval()
    trace = record(model, IDS)
    for given, bare, said in (
        (IDS.flip(0), trace, "token 0 is 8 here and 0 in the trace; replay the same text"),
        (IDS[:2], trace, r"token_ids \(=8\) must be as many as the trace's \(=12\); give the same text"),
        (IDS, dataclasses.replace(trace, token_ids=None), "token_ids were given, and the trace has none to compare"),
    ):
        with pytest.raises(InputError, match=said), headgate.replay(model, bare, token_ids=given):
            pass


def test_a_drawn_choice_can_not_be_replayed():
    model = Model("phimoe").eval()
    trace = record(model, IDS)
    with pytest.raises(InputError, match=r"layers.0.moe has selection 'sparsemixer', whose weights depend on how its"):
        chosen(model, IDS, trace=trace)


def test_a_pass_that_does_not_repeat_itself_is_refused():
    class Changing(Block):
        calls = 0

        def forward(self, x, padding=None, token_ids=None):
            self.calls += 1
            return super().forward(x * self.calls)

    model = Model().train()
    trace = record(model, IDS)
    model.layers[0] = Changing("mixtral")
    model.recompute = False

    def run():
        with headgate.replay(model, trace):
            model(IDS).sum().backward()

    with pytest.raises(InputError, match=r"repeats a pass over 12 tokens that it did not have before; activation"):
        run()
