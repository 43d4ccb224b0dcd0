"""Layouts in the files of engines, to the letter, and back."""

import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.errors import ArtifactError, InputError
from headgate.layout import ExpertLayout
from headgate.planning.layout_files import FORMATS, encode_layout, parse_layout
from headgate.planning.placement import place_experts

LAYOUT = ExpertLayout(
    device_experts=np.array([[[0, 1], [2, 0]], [[1, 2], [0, 1]]]), num_experts=3, layer_index=(1, 3), num_nodes=2
)

TEXTS = {
    "headgate": """{
 "format": "headgate-layout",
 "version": 1,
 "num_experts": 3,
 "num_devices": 2,
 "num_nodes": 2,
 "layers": [1, 3],
 "physical_to_logical": [
  [0, 1, 2, 0],
  [1, 2, 0, 1]
 ]
}
""",
    # Decoder layers 0 and 2 are dense: SGLang's own default, slot modulo experts, stands there.
    "sglang": """{
 "physical_to_logical_map": [
  [0, 1, 2, 0],
  [0, 1, 2, 0],
  [0, 1, 2, 0],
  [1, 2, 0, 1]
 ]
}
""",
    "vllm": "[\n [0, 1, 2, 0],\n [1, 2, 0, 1]\n]\n",
    "tensorrt-llm": """initial_global_assignments:
  1: [0, 1, 2, 0]
  3: [1, 2, 0, 1]
num_slots: 4
layer_updates_per_iter: 0
""",
}


@pytest.mark.parametrize("name", TEXTS)
def test_files_to_the_letter(name):
    assert encode_layout(LAYOUT, name) == TEXTS[name]


def test_the_file_of_ascend():
    assert json.loads(encode_layout(LAYOUT, "ascend")) == {
        "moe_layer_count": 2,
        "layer_list": [
            {
                "layer_id": 0,
                "device_count": 2,
                "device_list": [{"device_id": 0, "device_expert": [0, 1]}, {"device_id": 1, "device_expert": [2, 0]}],
            },
            {
                "layer_id": 1,
                "device_count": 2,
                "device_list": [{"device_id": 0, "device_expert": [1, 2]}, {"device_id": 1, "device_expert": [0, 1]}],
            },
        ],
    }


@given(st.integers(0, 2**32 - 1), st.sampled_from(FORMATS))
@settings(deadline=None, max_examples=15)
def test_what_is_written_is_read(seed, name):
    rng = np.random.default_rng(seed)
    layout = place_experts(rng.integers(0, 9, (3, 8)), num_devices=4, num_replicas=int(rng.choice([0, 4, 8])))
    found = parse_layout(encode_layout(layout, name), num_devices=4, num_experts=8)
    assert found.device_experts.tolist() == layout.device_experts.tolist()
    assert found.layers == layout.layers


def test_headgates_own_file_keeps_everything():
    found = parse_layout(encode_layout(LAYOUT))
    assert (found.layers, found.num_nodes, found.num_experts) == ((1, 3), 2, 3)
    assert parse_layout(TEXTS["tensorrt-llm"], num_devices=2).layers == (1, 3)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{", ArtifactError, r"^the file is neither JSON nor YAML"),
        ("3", ArtifactError, r"^the file holds no layout of Headgate, SGLang, vLLM, TensorRT-LLM or Ascend"),
        ("[]", ArtifactError, r"^the file holds no layout"),
        ('{"logical_count": [[1]]}', ArtifactError, r"^the file holds no layout"),
        ("[[0, 1], [0]]", ArtifactError, r"^the layout's lists are of different lengths; write it again$"),
        ("[[0, 1.5]]", ArtifactError, r"^the layout's lists do not hold whole numbers; write it again$"),
        ("[[0, 1, 2]]", InputError, r"^devices \(=2\) must divide the slots of each layer \(=3\)"),
        ("[[0, 0, 1, 1]]", InputError, r"^expert \(=0\) is twice on device 0 of layer 0"),
        (
            '{"format": "headgate-layout", "version": 2}',
            ArtifactError,
            r"^the layout has version 2, this Headgate reads 1",
        ),
        ('{"format": "headgate-layout", "version": 1}', ArtifactError, r"^the layout lacks num_devices, num_experts"),
        ('{"layer_list": [{}]}', ArtifactError, r"^layer_list lacks 'device_list'; every layer has"),
        ('{"layer_list": []}', ArtifactError, r"^layer_list is empty; write it again$"),
        ("initial_global_assignments: {a: [0, 1]}", ArtifactError, r"does not map decoder layers to lists"),
    ],
)
def test_what_is_no_layout_is_refused(text, error, message):
    with pytest.raises(error, match=message):
        parse_layout(text, num_devices=2)


def test_yaml_needs_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ArtifactError, match=r"^the file is no JSON, and YAML needs pyyaml; pip install 'headgate"):
        parse_layout(TEXTS["tensorrt-llm"], num_devices=2)


def test_devices_must_be_known():
    with pytest.raises(InputError, match=r"^devices \(=None\) must be given, since the file does not say how many"):
        parse_layout("[[0, 1]]")


def test_empty_slots_are_in_headgates_own_file_alone():
    layout = ExpertLayout(device_experts=np.array([[[0, 1], [2, -1]]]), num_experts=3)
    assert parse_layout(encode_layout(layout)).device_experts.tolist() == layout.device_experts.tolist()
    for name in ("sglang", "vllm", "tensorrt-llm", "ascend"):
        with pytest.raises(InputError, match=r"^slot 1 \(=-1\) of device 1 in layer 0 must not be empty here"):
            encode_layout(layout, name)


def test_a_layer_can_not_be_written_twice():
    twice = ExpertLayout(device_experts=np.array([[[0]], [[0]]]), num_experts=1, layer_index=(2, 2))
    with pytest.raises(InputError, match=r"^layers \(=\[2, 2\]\) must be different; name each decoder layer once$"):
        encode_layout(twice)
