"""The payload against the trace that it was made of."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

import headgate
from headgate.errors import InputError
from headgate.nn import tap
from headgate.observe.metrics import load_ratio
from headgate.observe.page.build import PageBudget, make_page
from headgate.observe.pieces import count_rows, recount
from headgate.observe.reader import open_trace
from headgate.observe.record import trace_of
from headgate.observe.writer import TraceWriter, save_trace
from page_reader import read_payload
from traces import random_trace

NAMES = [f"<{number}>" for number in range(50)]


def named_trace(**options):
    return random_trace(token_strings={str(number): text for number, text in enumerate(NAMES)}, **options)


def read(*traces, **options):
    return read_payload(make_page(*traces, **options).encode())


def recorded(num_tokens=60, **metadata):
    """A real layer's trace, with logits."""
    torch.manual_seed(0)
    layer = headgate.MoE(16, 8, num_experts=8, top_k=2)
    with tap(layer) as tape, torch.no_grad():
        layer(torch.randn(3, num_tokens // 3, 16))
    ids = torch.arange(num_tokens).view(3, -1) % 11
    return trace_of(layer, tape, token_ids=ids, metadata=metadata, with_logits=True)


def test_arrays_are_those_of_the_trace():
    trace = named_trace(lengths=(5, 3, 4))
    (entry,) = read(trace)["traces"]
    arrays = entry["arrays"]
    np.testing.assert_array_equal(arrays["topk_ids"], trace.topk_ids)
    for name in ("topk_weights", "select_margin", "router_entropy", "token_ids", "position", "phase", "forward_id"):
        np.testing.assert_array_equal(arrays[name], getattr(trace, name), err_msg=name)
    bits = np.unpackbits(arrays["dropped"], axis=-1, count=2, bitorder="little")
    np.testing.assert_array_equal(bits, trace.is_dropped)
    np.testing.assert_array_equal(arrays["counts"], trace.counts)
    np.testing.assert_array_equal(arrays["select_bias"], trace.select_bias)
    assert arrays["seq_offsets"].tolist() == [0, 5, 8, 12]
    shown = [entry["strings"][place] for place in arrays["token_text"]]
    assert shown == [NAMES[token] for token in trace.token_ids]
    assert entry["cut"] is None


def test_passes_are_counted_on_their_own():
    trace = named_trace(lengths=(5, 3, 4))
    arrays = read(trace)["traces"][0]["arrays"]
    assert arrays["pass_ids"].tolist() == [0, 1, 2]
    for place in range(3):
        tokens = slice(4 * place, 4 * place + 4)
        counts = count_rows(trace.topk_ids[:, tokens], num_experts=6, is_dropped=trace.is_dropped[:, tokens])
        np.testing.assert_allclose(arrays["pass_ratio"][:, place], load_ratio(counts), rtol=1e-6)


def test_many_passes_are_taken_evenly():
    trace = dataclasses.replace(named_trace(lengths=(400,)), forward_id=torch.arange(400, dtype=torch.int32))
    # Three layers: room for ten passes.
    arrays = read(trace, budget=PageBudget(pass_bytes=120))["traces"][0]["arrays"]
    assert arrays["pass_ids"].tolist() == [0, 44, 89, 133, 177, 222, 266, 310, 355, 399]
    assert arrays["pass_ratio"].shape == (3, 10)


def test_a_layer_says_what_its_router_is_and_what_it_skips():
    entry = read(recorded(model="m"))["traces"][0]
    (layer,) = entry["layers"]
    assert (layer["num_experts"], layer["top_k"], layer["score"], layer["normalises"]) == (8, 2, "softmax", "sum")
    assert layer["formula"] == "s = softmax(z); S = top2(s); w = s[S] / sum s[S]"
    assert layer["skipped_fraction"] == pytest.approx(0.75)
    assert layer["verdict"]["status"] == entry["verdict"]["status"]
    assert layer["margin"] == sorted(layer["margin"])


def test_drops_and_padding_count_as_skipped():
    trace = named_trace(lengths=(200,), drop=0.5)
    (entry,) = read(trace)["traces"]
    for row, layer in enumerate(entry["layers"]):
        assert layer["skipped_fraction"] == pytest.approx(1 - trace.counts[row].sum().item() / (200 * 6))
        assert layer["drop_fraction"] == pytest.approx(trace.is_dropped[row].double().mean().item())


def test_experts_are_those_of_the_profile():
    # Expert 0 takes token 7 alone, and all of it; the second choice is random.
    tokens = torch.arange(900) % 9
    second = torch.from_numpy(np.random.default_rng(0).integers(1, 6, 900))
    first = torch.where(tokens == 7, 0, (second % 5) + 1)
    trace = named_trace(layers=(0,), lengths=(900,), full=False)
    trace = dataclasses.replace(trace, topk_ids=torch.stack([first, second], 1)[None], token_ids=tokens.int())
    arrays = read(dataclasses.replace(trace, counts=recount(trace)))["traces"][0]["arrays"]
    strings = read(dataclasses.replace(trace, counts=recount(trace)))["traces"][0]["strings"]
    assert strings[arrays["top_tokens"][0, 0, 0]] == NAMES[7]
    assert arrays["top_token_counts"][0, 0, 0] == 100
    assert arrays["top_token_lift"][0, 0, 0] == pytest.approx(9.0)
    assert arrays["top_tokens"][0, 0, 1] == -1
    np.testing.assert_allclose(arrays["load_bins"].sum(1), 1.0, rtol=1e-6)
    assert arrays["specialisation"][0] > arrays["specialisation_baseline"][0]


def test_a_small_budget_says_less_of_each_expert():
    arrays = read(recorded(), budget=PageBudget(expert_bytes=8 * 60))["traces"][0]["arrays"]
    sizes = [arrays[name].shape[2] for name in ("top_tokens", "partners", "load_bins")]
    assert sizes == [2, 1, 5]


def test_what_is_cut_is_said():
    trace = recorded()
    entry = read(trace, budget=PageBudget(max_tokens=30, score_bytes=80 * 7))["traces"][0]
    assert entry["arrays"]["topk_ids"].shape == (1, 20, 2)
    assert entry["arrays"]["scored_tokens"].tolist() == list(range(7))
    assert entry["arrays"]["router_scores"].shape == (1, 7, 8)
    np.testing.assert_array_equal(entry["arrays"]["counts"], trace.counts)
    assert "20 of 60 tokens, the first of 3 sequences" in entry["cut"]
    assert "the first 7 tokens" in entry["cut"]


def test_the_size_is_that_of_the_recorded_model():
    trace = recorded()
    size = read(trace)["traces"][0]["size"]
    expert = 3 * 16 * 8
    assert (size["total"], size["routed_total"], size["other"]) == (8 * expert + 16 * 8, 8 * expert, 16 * 8)
    assert (size["active"], size["routed_active"]) == (2 * expert + 16 * 8, 2 * expert)
    assert (size["expert_bytes"], size["bytes_per_parameter"]) == (4 * expert, 4)
    windows = [len(set(trace.topk_ids[0, begin : begin + 8].flatten().tolist())) for begin in range(0, 56, 8)]
    assert size["touched"][0] == ["1 token", 2.0, 8, 2.0 * 4 * expert]
    assert size["touched"][1] == [
        "8 tokens",
        pytest.approx(np.mean(windows)),
        8,
        pytest.approx(np.mean(windows) * 4 * expert),
    ]
    assert size["touched"][-1][0] == "all 60 tokens"


def test_the_size_in_words_has_no_decimal_where_a_mean_is_whole():
    said = read(recorded())["traces"][0]["size"]["sentence"]
    # Experts of 3 x 16 x 8 parameters, 2 of 8 active, and a router of 16 x 8.
    assert "(28 %); all of them" in said
    assert "one token touched 2 of 8 experts" in said


def test_without_a_shape_there_is_no_size():
    assert read(named_trace())["traces"][0]["size"] is None


def test_a_trace_of_counts_alone():
    trace = random_trace(lengths=(), full=False, content="counts", engine="llama.cpp", model="m")
    trace = dataclasses.replace(trace, counts=torch.tensor([[50, 40, 45, 55, 48, 52]] * 3))
    entry = read(trace)["traces"][0]
    assert entry["verdict"]["status"] == "healthy"
    assert entry["arrays"]["topk_ids"].shape == (3, 0, 2)
    assert entry["note"].startswith("Rows per expert, counted while m ran, by llama.cpp;")
    assert entry["layers"][0]["skipped_fraction"] is None
    assert entry["arrays"]["top_tokens"] is None


def test_a_trace_with_the_least():
    entry = read(random_trace(full=False))["traces"][0]
    missing = ("topk_weights", "select_margin", "token_ids", "forward_id", "scored_tokens", "pass_ratio", "top_tokens")
    assert all(entry["arrays"][name] is None for name in missing)
    assert entry["arrays"]["token_text"].tolist() == [-1] * 12
    said = " ".join(entry["not_shown"])
    assert all(word in said for word in ("no router logits", "no weights", "no token ids", "no norms", "formula"))


def test_every_array_that_the_page_may_ask_for_is_named():
    written = read(recorded())["traces"][0]["arrays"].keys()
    assert read(random_trace(full=False))["traces"][0]["arrays"].keys() == written
    assert read(random_trace(lengths=(), full=False))["traces"][0]["arrays"].keys() == written


def test_two_traces(tmp_path):
    first = named_trace(lengths=(5, 3, 4), drop=0)
    ids = first.topk_ids.clone()
    ids[1, 7, 1] = next(expert for expert in range(6) if expert not in ids[1, 7].tolist())
    ids[0, 2] = torch.tensor([expert for expert in range(6) if expert not in ids[0, 2].tolist()][:2])
    second = dataclasses.replace(first, topk_ids=ids)
    for name, trace in (("a", first), ("b", dataclasses.replace(second, counts=recount(second)))):
        save_trace(tmp_path / f"{name}.safetensors", trace)
    paths = [open_trace(tmp_path / f"{name}.safetensors") for name in "ab"]
    page = read(*paths, names=("a", "b"))
    assert [entry["name"] for entry in page["traces"]] == ["a", "b"]
    found = page["comparison"]
    np.testing.assert_array_equal(found["pairs"], np.stack([np.arange(12)] * 2, 1))
    expected = np.full((3, 12), 2)
    expected[1, 7], expected[0, 2] = 1, 0
    np.testing.assert_array_equal(found["overlap"], expected)
    assert found["most_changed"].tolist() == [2, 7]
    assert found["layers"][0]["overlap"] == pytest.approx(11 / 12)
    assert found["layers"][2] == {"overlap": 1.0, "flips": 0.0, "jaccard": 1.0, "js_distance": 0.0}
    assert "overlap@2 is 0.9583" in found["sentence"]


def test_a_string_of_any_length_takes_little(tmp_path):
    trace = random_trace(token_strings={str(number): chr(97 + number % 3) * 10**6 for number in range(50)})
    strings = read(trace)["traces"][0]["strings"]
    assert sorted(strings) == [letter * 200 + "…" for letter in "abc"]


def test_a_recording_that_goes_on_is_said_to(tmp_path):
    writer = TraceWriter(tmp_path / "a.safetensors")
    writer.append(named_trace())
    writer.flush()
    note = read(open_trace(tmp_path / "a.safetensors"))["traces"][0]["note"]
    assert note.endswith("The recording was interrupted, or goes on: this is what it had written.")
    writer.close()
    assert "interrupted" not in read(open_trace(tmp_path / "a.safetensors"))["traces"][0]["note"]


def test_traces_of_other_texts_are_refused():
    with pytest.raises(InputError, match="different texts"):
        make_page(named_trace(seed=0), named_trace(seed=1, lengths=(2, 2)))


def test_traces_without_ids_need_a_word():
    first = random_trace(full=False)
    with pytest.raises(InputError, match="assume-aligned"):
        make_page(first, first)
    assert "not checked" in make_page(first, first, assume_aligned=True).header["comparison"]["sentence"]


def test_a_large_trace_stays_within_eight_megabytes():
    # As many decisions as 2,000 tokens make in 48 layers, each for the best 8 of 128; fewer layers are tested sooner.
    rng = np.random.default_rng(0)
    trace = random_trace(layers=tuple(range(8)), lengths=(12_000,), top_k=8, num_experts=128, drop=0)
    logits = torch.from_numpy(rng.normal(size=(8, 12_000, 128)).astype(np.float16))
    spec = headgate.preset("qwen3_moe", num_experts=128, top_k=8).to_dict()
    layers = [{"path": f"layers.{row}", "router": spec} for row in range(8)]
    page = make_page(dataclasses.replace(trace, router_logits=logits, metadata={"layers": layers}))
    entry = read_payload(page.encode())["traces"][0]
    assert entry["arrays"]["topk_ids"].shape == (8, 12_000, 8)
    # Uncompressed, base64 and with a template of 300 KB.
    assert len(page.encode()) * 4 / 3 + 300_000 < 8e6


def test_the_header_is_json_without_arrays_of_lists():
    payload = make_page(recorded()).encode()
    header = payload[4 : 4 + int.from_bytes(payload[:4], "little")]
    assert len(header) < 20_000
    assert math.isfinite(json.loads(header)["traces"][0]["layers"][0]["cv"])


@pytest.mark.parametrize(
    ("created", "said"), [("2026-11-23T17:43:37+00:00", "ran on 2026-11-23. Every"), ("a Tuesday", "ran on a Tuesday.")]
)
def test_the_day_of_the_recording_is_said_and_its_time_noted(created, said):
    trace = named_trace()
    entry = read(dataclasses.replace(trace, metadata={**trace.metadata, "created": created}))["traces"][0]
    assert said in entry["note"]
    assert ["recorded", created] in entry["provenance"]
