"""The exported demo is the demo: the same logits, and everything that works on a model of transformers."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import headgate.integrations.transformers as integration
from compare import assert_close
from headgate.demo import folder
from headgate.demo.export import export_mixtral
from headgate.demo.tokenizer import load_tokenizer
from headgate.errors import ArtifactError, SpecError
from headgate.integrations.transformers.checking import load_checkpoint
from headgate.integrations.transformers.provenance import describe_recording
from headgate.nn.tape import tap
from headgate.observe.reader import load_trace
from tiny_demo import run, tiny_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    outcome = run(out, tiny_config())
    return out, outcome


def test_transformers_loads_it_with_the_same_logits_routing_and_tokens(trained, tmp_path):
    out, outcome = trained
    exported = export_mixtral(out, tmp_path / "mixtral")
    theirs = AutoModelForCausalLM.from_pretrained(exported).eval()
    ours = outcome.model.eval()
    text = "the gate lets water into channels"
    ids = torch.tensor([load_tokenizer(out / "tokenizer.json").encode(text).ids])
    assert AutoTokenizer.from_pretrained(exported)(text)["input_ids"] == ids[0].tolist()
    with torch.no_grad(), tap(ours) as our_tape, integration.tap(theirs) as their_tape:
        assert_close("logits", theirs(ids).logits, ours(ids), dtype=torch.float32, terms=2 * (6 * 16 + 3 * 16))
    for ours_of_layer, layer in zip(our_tape.values(), their_tape.layers.values(), strict=True):
        assert torch.equal(ours_of_layer[0].choice.expert_ids, layer.decisions[0].expert_ids)
    assert integration.accelerate(theirs).num_switched == 2


def test_a_run_without_a_checkpoint_is_named(tmp_path):
    folder.start_run(tmp_path, tiny_config())
    with pytest.raises(ArtifactError, match="has no checkpoint yet; let headgate demo run until it has saved one"):
        export_mixtral(tmp_path, tmp_path / "out")


def test_another_router_is_refused(tmp_path):
    folder.start_run(tmp_path, tiny_config(router="switch"))
    with pytest.raises(SpecError, match=r"router \(='switch'\), .* must be 'mixtral', 'moe' and None"):
        export_mixtral(tmp_path, tmp_path / "out")


def test_traces_of_the_run_and_of_its_export_compare(trained, tmp_path):
    out, _ = trained
    exported = export_mixtral(out, tmp_path / "mixtral")
    noted = load_trace(out / folder.TRACE).metadata
    theirs = describe_recording(*load_checkpoint(str(exported)), name="export", text_hash="", options={})
    assert noted["tokenizer_hash"] == theirs["tokenizer_hash"]
