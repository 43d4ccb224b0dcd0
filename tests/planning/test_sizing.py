"""The report: its counts, its JSON, its notes, and what it refuses."""

import json

import pytest
import torch

from headgate.errors import InputError, SpecError
from headgate.planning.catalogue import Published, agrees, catalogue, find_model, print_count, suggest_models
from headgate.planning.hardware import find_device
from headgate.planning.memory import choose_precision, parse_ranks
from headgate.planning.parameters import CONVENTIONS, ModelShape, Role
from headgate.planning.routes import measured_routes, uniform_routes
from headgate.planning.sizing import BATCHES, Workload, size_model
from planning.shapes import D_FF, D_MODEL, NUM_EXPERTS, NUM_WORDS, TOP_K, dense, group, moe, routed_layer

EXPERT = 3 * D_MODEL * D_FF
H200 = find_device("h200")


def report(shape: ModelShape | None = None, routes=None, published=None, **load):
    chosen = shape or moe()
    return size_model(chosen, Workload(**load), choose_precision(chosen), published=published, routes=routes)


def test_counts_by_role_sum_to_the_total_and_active_counts_differ_by_head_and_embedding():
    values = report().to_dict()["parameters"]
    assert sum(values["by_role"].values()) == values["total"]
    body = 8 * D_MODEL**2 + 2 * NUM_EXPERTS * D_MODEL + 5 * D_MODEL + 2 * TOP_K * EXPERT
    assert values["active"]["no_embeddings"] == body
    assert values["active"]["with_head"] == body + NUM_WORDS * D_MODEL
    assert values["active"]["with_embeddings_and_head"] == body + 2 * NUM_WORDS * D_MODEL
    assert values["per_expert"] == [EXPERT]
    assert set(CONVENTIONS) < set(values["active"])


def test_total_active_and_per_expert_are_three_different_things():
    values = report().to_dict()["parameters"]
    assert values["per_expert"][0] < values["active"]["no_embeddings"] < values["total"]
    # What "8 x an expert" suggests, the name of the first such models, is neither.
    assert NUM_EXPERTS * values["per_expert"][0] not in (values["total"], values["active"]["with_head"])


def test_the_report_is_json_and_its_integers_are_integers():
    values = json.loads(json.dumps(report(device=H200, parallel=parse_ranks("4"), batch=8, capacity=1.25).to_dict()))
    assert isinstance(values["parameters"]["total"], int)
    assert all(isinstance(values["parameters"]["active"][name], int) for name in CONVENTIONS)
    assert values["memory"]["per_rank"]["total_bytes"] > 0
    assert values["memory"]["capacity_buffer_bytes"] > 0
    assert values["routing"]["layers"][0]["distinct_ranks_per_token"] < TOP_K
    assert [speed["batch"] for speed in values["speed"]["by_batch"]] == list(BATCHES)


def test_the_batch_of_the_workload_is_among_those_of_the_picture():
    found = report(device=H200, batch=12)
    assert found.at_batch().batch == 12
    assert len(found.speed) == len(BATCHES) + 1
    assert report().at_batch() is None


def test_a_dense_model_is_sized_as_one_and_told_so():
    found = report(dense())
    assert not found.to_dict()["model"]["is_moe"]
    assert any("made-up is a dense model: it has no routed experts" in note for note in found.notes)
    active = found.to_dict()["parameters"]["active"]["with_embeddings_and_head"]
    assert active == dense().total


def test_first_layers_without_experts_and_per_layer_lists():
    # One dense layer, then layers of four and of eight experts, with one and two choices.
    weights = (
        group(Role.DENSE_MLP, 4 * D_FF, D_MODEL, count=3),
        group(Role.ROUTED_EXPERTS, 4, 3 * D_FF, D_MODEL),
        group(Role.ROUTED_EXPERTS, 8, 3 * D_FF, D_MODEL),
    )
    shape = moe(3, weights=weights, routed=(routed_layer(1, num_experts=4, top_k=1), routed_layer(2)))
    assert shape.active_experts() == (1 + 2) * EXPERT
    assert shape.active()["no_embeddings"] == 3 * 4 * D_FF * D_MODEL + 3 * EXPERT
    layers = report(shape).to_dict()["routing"]["layers"]
    assert [layer["distinct_experts"] for layer in layers] == [1, 2]


def test_zero_compute_experts_depths_and_expert_choice():
    zero = moe(1, routed=(routed_layer(num_zero_experts=8),))
    assert zero.active_experts() == EXPERT  # two choices, of which one on average has weights
    assert any("zero-compute" in note for note in report(zero).notes)
    half = moe(1, routed=(routed_layer(token_fraction=0.5),))
    assert half.active_experts() == EXPERT
    chosen = moe(1, routed=(routed_layer(selection="expert_choice", top_k=1.5),))
    found = report(chosen)
    assert chosen.active_experts() == round(1.5 * EXPERT)
    assert found.to_dict()["routing"]["layers"][0]["distinct_experts"] == NUM_EXPERTS
    assert any("Experts choose their tokens" in note for note in found.notes)


def test_towers_and_further_tokens_are_in_the_total_and_not_active():
    more = tuple(group(role, 5, 7) for role in (Role.VISION, Role.AUDIO, Role.MTP))
    shape = moe(weights=(*moe().weights, *more))
    assert shape.total == moe().total + 3 * 35
    assert shape.active() == moe().active()


def test_a_trace_replaces_the_formula():
    ids = torch.tensor([[[0, 1]] * 6, [[2, 3]] * 6])
    routes = measured_routes(moe(), ids, [(0, 6)], source="t.safetensors", span=3, num_ranks=4)
    found = report(routes=routes, batch=4, drafts=2, parallel=parse_ranks("4")).to_dict()["routing"]
    assert found["source"] == "t.safetensors"
    assert [layer["distinct_experts"] for layer in found["layers"]] == [2, 2]
    assert [layer["distinct_ranks_per_token"] for layer in found["layers"]] == [1, 1]


def test_zero_compute_choices_of_a_trace_count_nothing():
    shape = moe(1, routed=(routed_layer(num_zero_experts=2),))
    routes = measured_routes(shape, torch.tensor([[[0, 8], [9, 1]]]), [(0, 2)], source="t")
    assert routes.token[0].mean_choices == 1


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.zeros(3, 2, 1, dtype=torch.long), r"trace \(=t\) has 3 layers, and the model 2 with experts"),
        (torch.full((2, 2, 1), 8), r"trace \(=t\) chooses expert 8 in layer 0, and the model has 8 there"),
        (torch.zeros(2, 0, 1, dtype=torch.long), r"trace \(=t\) holds counts alone"),
    ],
)
def test_a_trace_of_another_model_is_refused(ids, message):
    with pytest.raises(InputError, match=message):
        measured_routes(moe(), ids, [(0, 2)], source="t")


def test_uniform_ranks_of_zero_experts_lie_between_the_whole_numbers():
    shape = moe(1, routed=(routed_layer(top_k=3, num_zero_experts=8),))  # 1.5 experts with weights
    one, two = (uniform_routes(moe(1, routed=(routed_layer(top_k=k),)), num_ranks=4).ranks[0] for k in (1, 2))
    assert uniform_routes(shape, num_ranks=4).ranks[0] == pytest.approx((one + two) / 2)


@pytest.mark.parametrize(
    ("load", "message"),
    [
        ({"batch": 0}, r"batch \(=0\) must be at least 1"),
        ({"context": 0}, r"context \(=0\) must be at least 1"),
        ({"drafts": -1}, r"spec \(=-1\) must be at least 0"),
        ({"capacity": 0.0}, r"capacity \(=0\) must be above 0 and finite; 1 gives each expert an even share"),
        ({"capacity": float("nan")}, r"capacity \(=nan\) must be above 0 and finite"),
        (
            {"parallel": parse_ranks("16")},
            r"ep \(=16\) must not exceed the experts of a layer \(=8\).*use ep=8 or fewer",
        ),
        ({"device": H200, "measured_s": 1e-12}, r"measured \(=1e-09 ms a step\) is below the floor"),
    ],
)
def test_nonsense_is_refused(load, message):
    with pytest.raises(InputError, match=message):
        report(**load)


def test_more_choices_than_experts_is_refused():
    with pytest.raises(SpecError, match=r"top_k \(=11\) of layers.0.experts must be from 1 to the number of experts"):
        routed_layer(top_k=11, num_zero_experts=2)


def test_devices_without_a_link_say_that_the_exchange_is_left_out():
    notes = report(device=find_device("rtx-4090"), parallel=parse_ranks("2"), batch=2).notes
    assert any("has no link of its own" in note for note in notes)


@pytest.mark.parametrize(
    ("count", "printed", "is_same"),
    [
        (12_879_925_248, "12.9B", True),
        (3_353_000_000, "3.3B", True),  # cut off
        (3_353_000_000, "3.4B", True),  # rounded
        (3_353_000_000, "3.5B", False),
        (3_299_000_000, "3.3B", True),
        (3_249_000_000, "3.3B", False),
        (1_026_410_000_000, "1T", True),
        (950_000, "1M", True),
    ],
)
def test_a_printed_figure_is_met_to_its_last_digit(count, printed, is_same):
    assert agrees(count, printed) is is_same


def test_a_figure_without_a_unit_is_refused():
    with pytest.raises(InputError, match=r"printed \(=12.9\) must be a number with M, B or T"):
        agrees(1, "12.9")


def test_the_vendors_figure_names_the_conventions_that_it_fits():
    total, active = moe().total, moe().active()
    published = Published(
        total=f"{total / 1e6:.3f}M",
        active=f"{active['with_head'] / 1e6:.3f}M",
        convention="with_head",
        source="a card",
        date="2026-11-23",
    )
    found = report(published=published).to_dict()["parameters"]["active"]["vendor"]
    assert found["matches"] == ["with_head"]
    assert found["stated_convention"] == "with_head"


def test_names_and_hub_ids_of_the_catalogue_in_any_case():
    assert find_model("OLMoE-1B-7B") is catalogue()["olmoe-1b-7b"]
    assert find_model("openai/GPT-OSS-20b") is catalogue()["gpt-oss-20b"]
    assert find_model("nothing") is None
    assert suggest_models("mixtral8x7b").startswith("did you mean mixtral-8x7b")
    assert suggest_models("@@@").startswith("built-in names: olmoe-1b-7b")


@pytest.mark.parametrize("entry", catalogue().values(), ids=lambda entry: entry.name)
def test_each_entry_has_a_source_a_date_and_a_known_convention(entry):
    published = entry.published
    assert published.source
    assert published.date.count("-") == 2
    assert published.convention in (None, *CONVENTIONS)
    assert agrees(0, published.total) is False
    assert "/" in entry.hub_id


@pytest.mark.parametrize(("count", "text"), [(999, "999"), (2_360_000, "2.36M"), (999_999_999_999, "1000.0B")])
def test_counts_are_written_with_three_or_four_digits(count, text):
    assert print_count(count) == text
