"""The battery: each check passes on what is well, and fails on something that is broken in just that way."""

import dataclasses

import pytest
import torch
from torch import nn

import headgate
from headgate.errors import InputError
from headgate.observe.check_model import check_model
from headgate.observe.check_trace import check_trace
from headgate.observe.findings import has_failed
from headgate.observe.pieces import count_rows, recount
from headgate.observe.reader import open_trace
from headgate.observe.record import trace_of
from headgate.observe.writer import TraceWriter, save_trace
from traces import random_trace


def findings(folder, trace):
    save_trace(folder / "a.safetensors", trace)
    return {finding.check: finding for finding in check_trace(open_trace(folder / "a.safetensors"))}


def spread(**changes):
    """A large trace whose experts are evenly loaded, without drops."""
    trace = random_trace(lengths=(100,) * 10, drop=0)
    return dataclasses.replace(trace, **changes)


def test_a_healthy_trace(tmp_path):
    found = findings(tmp_path, spread())
    assert {name: finding.status for name, finding in found.items()} == {
        "format": "pass",
        "complete": "pass",
        "balance": "pass",
        "balance per pass": "pass",
        "dead experts": "pass",
        "drops": "pass",
        "ties": "pass",
        "NaN": "pass",
        "bfloat16 router": "unknown",
    }
    assert not has_failed(list(found.values()))


def test_a_collapsed_trace(tmp_path):
    ids = torch.tensor([0, 1]).expand(3, 1000, 2).clone()
    trace = spread(topk_ids=ids)
    found = findings(tmp_path, dataclasses.replace(trace, counts=recount(trace)))
    assert (found["balance"].status, found["dead experts"].status) == ("fail", "fail")
    assert found["balance"].sentence.startswith("layers 1, 2, 4 collapsed; the busiest expert, in layer 1, does 3.00")
    assert found["dead experts"].sentence == "12 experts got nothing; the sample shows it for layers 1, 2, 4"


def test_a_small_sample_shows_no_collapse(tmp_path):
    for tokens, status in ((2, "unknown"), (20, "fail")):
        trace = random_trace(lengths=(tokens,), full=False)
        ids = torch.zeros_like(trace.topk_ids)
        ids[..., 1] = 1
        trace = dataclasses.replace(trace, topk_ids=ids)
        found = findings(tmp_path, dataclasses.replace(trace, counts=recount(trace)))["balance"]
        assert found.status == status, found
        if status == "unknown":
            assert found.sentence == (
                "the busiest expert, in layer 1, does 3.00 times an even share, but chance alone could do that in 4 "
                "rows; record more"
            )


def test_a_small_sample_shows_no_death(tmp_path):
    ids = torch.tensor([[0, 1], [2, 3]]).expand(3, 2, 2).clone()
    trace = dataclasses.replace(random_trace(lengths=(2,), full=False), topk_ids=ids)
    found = findings(tmp_path, dataclasses.replace(trace, counts=recount(trace)))
    assert found["dead experts"].status == "unknown"
    assert found["dead experts"].sentence == (
        "6 experts got nothing, but 4 rows in a layer are too few to call them dead (275 would do)"
    )


def test_broken_counts_nan_ties_and_drops(tmp_path):
    trace = spread()
    weights = trace.topk_weights.clone()
    weights[1, 5, 0] = float("nan")
    margins = trace.select_margin.clone()
    margins[2, :50] = 0
    dropped = torch.zeros_like(trace.is_dropped)
    dropped[0, :100, 1] = True
    weights[dropped] = 0
    trace = dataclasses.replace(trace, topk_weights=weights, select_margin=margins, is_dropped=dropped)
    found = findings(tmp_path, trace)
    assert found["format: counts"].status == "fail"
    assert found["NaN"].sentence == "1 weights, margins or entropies are NaN, in layer 2"
    assert (found["ties"].status, found["ties"].sentence[:5]) == ("warn", "5.00%")
    assert (found["drops"].status, found["drops"].sentence[:5]) == ("warn", "5.00%")
    assert has_failed(list(found.values()))


def test_a_repeated_expert_is_named_with_its_place(tmp_path):
    ids = spread().topk_ids.clone()
    ids[1, 30] = 2
    trace = spread(topk_ids=ids)
    found = findings(tmp_path, dataclasses.replace(trace, counts=recount(trace)))
    assert found["format: topk_ids"].sentence == (
        "a token chooses an expert once, and does not at 1 place, first at layer 2, token 30"
    )


def test_single_passes_are_described(tmp_path):
    # Passes of 4 tokens with 2 choices among 6 experts: the busiest has 4 rows at most, which is 3 even shares.
    said = findings(tmp_path, spread())["balance per pass"].sentence
    assert said.startswith("the busiest expert of a pass does 2.25 times an even share in the median of 250 passes, ")
    bare = findings(tmp_path, random_trace(full=False))["balance per pass"]
    assert (bare.status, bare.sentence) == ("unknown", "the trace does not know its forward passes")


def test_a_killed_recording_is_a_warning(tmp_path):
    writer = TraceWriter(tmp_path / "a.safetensors")
    writer.append(spread())
    writer.flush()
    found = {finding.check: finding for finding in check_trace(open_trace(tmp_path / "a.safetensors"))}
    assert found["complete"].status == "warn"


def logits_trace(*, gap):
    """A trace with logits that differ by `gap` around 1, where bfloat16 has steps of 1/128."""
    logits = 1 + gap * torch.stack([torch.randperm(6, generator=torch.Generator().manual_seed(s)) for s in range(300)])
    ids = logits.argsort(dim=-1, descending=True)[None, :, :2]
    trace = random_trace(layers=[0], lengths=(300,), full=False)
    spec = headgate.preset("mixtral", num_experts=6, top_k=2)
    return dataclasses.replace(
        trace,
        topk_ids=ids,
        counts=count_rows(ids, num_experts=6),
        router_logits=logits[None].half(),
        metadata={"layers": [{"path": "moe", "router": spec.to_dict()}]},
    )


def test_flips_by_rounding_are_counted(tmp_path):
    assert findings(tmp_path, logits_trace(gap=1 / 64))["bfloat16 router"].status == "pass"
    found = findings(tmp_path, logits_trace(gap=1 / 512))["bfloat16 router"]
    assert found.status == "warn"
    trace = logits_trace(gap=1 / 512)
    biased = [{"path": "moe", "router": {**trace.metadata["layers"][0]["router"], "selection_bias": True}}]
    found = findings(tmp_path, dataclasses.replace(trace, metadata={"layers": biased}))["bfloat16 router"]
    assert (found.status, found.sentence[:40]) == ("unknown", "no layer chooses by its logits alone, so")


def test_a_router_that_makes_no_sense_is_not_believed(tmp_path):
    trace = logits_trace(gap=1)
    for router in ({"num_experts": -3, "top_k": "x"}, {"group_limit": 3}, None):
        odd = dataclasses.replace(trace, metadata={"layers": [{"path": "moe", "router": router}]})
        assert findings(tmp_path, odd)["bfloat16 router"].status == "unknown"


class Model(nn.Module):
    """Embedding, a causal mix over the sequence, a routed layer."""

    def __init__(self, *, mix="causal", layer=None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(50, 16)
        self.moe = layer or headgate.MoE(16, 8, num_experts=8, top_k=2)
        self.mix = mix

    def forward(self, ids):
        x = self.embed(ids)
        if self.mix == "causal":
            x = x + x.cumsum(1) / 8
        elif self.mix == "sequence":
            x = x + x.mean(1, keepdim=True)
        elif self.mix == "batch":
            x = x + x.mean(0, keepdim=True)
        return self.moe(x)


TOKENS = torch.randint(0, 50, (6, 40), generator=torch.Generator().manual_seed(1))


def statuses(model):
    return {finding.check: finding.status for finding in check_model(model, TOKENS)}


def test_a_healthy_model():
    model = Model().train()
    found = statuses(model)
    for check in ("batch invariance", "causality", "NaN guard", "training gap", "NaN", "ties"):
        assert found[check] == "pass", check
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_model_that_mixes_the_batch_is_found():
    found = statuses(Model(mix="batch"))
    assert (found["batch invariance"], found["causality"]) == ("fail", "pass")


def test_a_model_that_looks_ahead_is_found():
    found = statuses(Model(mix="sequence"))
    assert (found["batch invariance"], found["causality"]) == ("pass", "fail")


def test_capacity_that_depends_on_the_batch_is_no_other_choice():
    layer = headgate.MoE(16, 8, router="switch", num_experts=8)
    assert statuses(Model(layer=layer))["batch invariance"] == "pass"


def test_expert_choice_has_a_training_gap_and_no_logits_to_rank():
    spec = headgate.preset("expert_choice", num_experts=8, top_k=2)
    found = statuses(Model(layer=headgate.MoE(16, 8, router=spec)))
    assert (found["training gap"], found["bfloat16 router"]) == ("warn", "unknown")


def test_a_narrow_router_is_noticed():
    model = Model()
    with torch.no_grad():
        # Rows that differ by less than bfloat16 can hold.
        model.moe.router.weight.copy_(1 + 1e-3 * torch.randn(8, 16))
    assert statuses(model)["bfloat16 router"] == "warn"


def test_without_a_nan_guard_it_fails(monkeypatch):
    model = Model()
    real = type(model.moe.router).forward

    def careless(self, x, **options):
        # The mean over all tokens lets a NaN in one reach every other.
        return real(self, x + 0 * x.mean(), **options)

    monkeypatch.setattr(type(model.moe.router), "forward", careless)
    assert statuses(model)["NaN guard"] == "fail"


def test_a_text_that_is_too_short():
    with pytest.raises(
        InputError, match=r"^token_ids.shape \(=\(1, 40\)\) must be at least \(2, 2\): one sequence has"
    ):
        check_model(Model(), TOKENS[:1])


def test_a_text_of_equal_sequences_can_not_show_causality():
    found = {f.check: f for f in check_model(Model(), torch.zeros(2, 4, dtype=torch.int64))}
    assert found["causality"].status == "unknown"


def test_trace_of_numbers_layers_and_sequences():
    model = Model()
    with headgate.tap(model) as tape:
        model(TOKENS[:2])
    trace = trace_of(model, tape, token_ids=TOKENS[:2])
    assert trace.seq_offsets.tolist() == [0, 40, 80]
    assert trace.metadata["layers"][0]["path"] == "moe"
