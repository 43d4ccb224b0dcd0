"""SGLang's responses, and the hazards of a format that does not say its shape."""

import json

import numpy as np
import pytest

from foreign import SHAPE, UNNAMED, assert_holds, choices, encoded, write
from headgate.errors import ArtifactError, InputError
from headgate.observe.importers.sglang import import_sglang
from headgate.observe.importers.shape import RouterShape


def test_sglang_flat_base64(tmp_path):
    ids = choices(5)
    response = {"meta_info": {"routed_experts": encoded(ids.astype(np.int32))}}
    trace = import_sglang([write(tmp_path / "a.json", response)], SHAPE)
    assert_holds(trace, ids, tmp_path)
    narrow = {"sgl_ext": {"routed_experts": encoded(ids.astype(np.uint8)), "routed_experts_dtype": "uint8"}}
    assert_holds(import_sglang([write(tmp_path / "a.json", [narrow])], SHAPE), ids, tmp_path)


def test_sglang_from_a_start_position_with_tokens(tmp_path):
    ids = choices(5)
    response = {
        "input_ids": [1, 2, 3],
        "output_ids": [4, 5, 6, 7],
        "meta_info": {
            "routed_experts": encoded(ids.astype(np.int32)),
            "routed_experts_start_len": 1,
            "expert_logits": "AAAA",
        },
    }
    trace = import_sglang([write(tmp_path / "a.jsonl", json.dumps(response))], SHAPE)
    assert trace.token_ids.tolist() == [2, 3, 4, 5, 6]
    assert trace.position.tolist() == [1, 2, 3, 4, 5]
    assert trace.phase.tolist() == [0, 0, 1, 1, 1]
    assert trace.metadata["ignored"] == ["expert_logits"]  # They are weights, whatever the name says.


def test_sglang_needs_the_shape(tmp_path):
    path = write(tmp_path / "a.json", {"meta_info": {"routed_experts": encoded(choices(5).astype(np.int32))}})
    with pytest.raises(InputError, match=r"does not say how many layers it holds; give the model's config.json"):
        import_sglang([path], UNNAMED)
    with pytest.raises(
        InputError, match=r"top_k is not in the file; give the model's config.json \(--config\) or --top"
    ):
        import_sglang([path], RouterShape(num_experts=8, moe_layers=(1, 2, 3)))


@pytest.mark.parametrize(
    ("response", "error", "said"),
    [
        (3, ArtifactError, "a response is no JSON object"),
        ({"meta_info": {}}, InputError, "holds no routing of any token"),
        ({"meta_info": {"routed_experts": "AAAA", "routed_experts_dtype": "f4"}}, ArtifactError, "and not of 'f4'"),
        ({"meta_info": {"routed_experts": [1]}}, ArtifactError, "routed_experts must be base64"),
        ({"meta_info": {"routed_experts": "AAAAAAA="}}, InputError, "has 5 bytes, which are no whole number of tokens"),
        (
            {"meta_info": {"routed_experts": "", "routed_experts_start_len": -1}},
            ArtifactError,
            r"routed_experts_start_len \(=-1\) must be a position from 0",
        ),
        (
            {"meta_info": {"routed_experts": encoded(choices(5).astype("i4")), "routed_experts_start_len": 2**40}},
            InputError,
            "a sequence starts at a position outside",
        ),
    ],
)
def test_sglang_responses_that_are_none(tmp_path, response, error, said):
    with pytest.raises(error, match=said):
        import_sglang([write(tmp_path / "a.json", response)], SHAPE)
