"""vLLM's four generations, built to the letter of their documentation, and their hazards."""

import base64
import json

import numpy as np
import pytest

from foreign import SHAPE, UNNAMED, assert_holds, choices, encoded, npy, write
from headgate.errors import ArtifactError, InputError
from headgate.observe.importers.shape import RouterShape
from headgate.observe.importers.vllm import import_vllm


def test_vllm_1_fills_dense_layers_with_zeros(tmp_path):
    ids = choices(6)
    path = tmp_path / "a.npy"
    path.write_bytes(npy(np.concatenate([np.zeros((6, 1, 2), int), ids], axis=1).astype(np.int32)))
    assert_holds(import_vllm([path], SHAPE), ids, tmp_path)
    with pytest.raises(InputError, match=r"rows \[0\] hold only expert 0 or none, as engines fill dense layers; give"):
        import_vllm([path], UNNAMED)
    wrong = RouterShape(num_experts=8, num_layers=4, moe_layers=(0, 2, 3))
    with pytest.raises(InputError, match=r"layers \[1\] are dense by the config and have ids; give the right --config"):
        import_vllm([path], wrong)


def test_vllm_2_nested_lists_with_a_cached_prefix(tmp_path):
    prompt, generated = choices(4), choices(2, seed=1)
    prompt[:2] = -1
    response = {
        "prompt_token_ids": [11, 12, 13, 14],
        "prompt_routed_experts": prompt.tolist(),
        "choices": [{"token_ids": [21, 22, 23], "routed_experts": generated.tolist()}],
    }
    trace = import_vllm([write(tmp_path / "a.json", response)], SHAPE)
    assert_holds(trace, np.concatenate([prompt, generated]), tmp_path)
    assert trace.token_ids.tolist() == [11, 12, 13, 14, 21, 22]  # The last token that is sampled is not routed.
    assert trace.phase.tolist() == [0, 0, 0, 0, 1, 1]
    assert trace.counts.sum().item() == 4 * 3 * 2


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_vllm_3_base64_npy(tmp_path, dtype):
    first, second = choices(5), choices(3, seed=1)
    texts = [base64.b64encode(npy(ids.astype(dtype))).decode() for ids in (first, second)]
    body = {"choices": [{"routed_experts": texts[0]}, {"routed_experts": None}, {"routed_experts": texts[1]}]}
    trace = import_vllm([write(tmp_path / "a.json", body)], SHAPE)
    assert_holds(trace, np.concatenate([first, second]), tmp_path)
    assert trace.seq_offsets.tolist() == [0, 5, 8]
    assert trace.position.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert trace.token_ids is None
    lines = "\n".join(json.dumps({"choices": [{"routed_experts": text}]}) for text in texts)
    assert_holds(import_vllm([write(tmp_path / "a.jsonl", lines)], SHAPE), np.concatenate([first, second]), tmp_path)


def test_vllm_4_raw_blocks(tmp_path):
    ids = choices(7)
    path = tmp_path / "a.bin"
    path.write_bytes(ids.astype(np.uint8).tobytes())
    assert_holds(import_vllm([path], SHAPE, raw_dtype="uint8"), ids, tmp_path)
    with pytest.raises(InputError, match=r"raw_dtype \(=None\) must be one of uint8, .*does not say; give --dtype$"):
        import_vllm([path], SHAPE)
    with pytest.raises(InputError, match=r"has 42 bytes, which are no whole number of tokens with 3 or 4 layers and 2"):
        import_vllm([path], SHAPE, raw_dtype="int32")


def test_raw_blocks_that_fit_two_ways_are_asked_about(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(choices(8).astype(np.uint8).tobytes())
    with pytest.raises(InputError, match=r"may hold 3 or 4 layers per token, both fit; say which by --rows"):
        import_vllm([path], SHAPE, raw_dtype="uint8")
    named = RouterShape(num_experts=8, top_k=2, num_layers=4, moe_layers=(1, 2, 3), num_rows=3)
    assert_holds(import_vllm([path], named, raw_dtype="uint8"), choices(8), tmp_path)


def test_zeros_alone_come_from_fused_kernels(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(npy(np.zeros((5, 3, 2), np.uint8)))
    with pytest.raises(InputError, match=r"every id is 0 or none, as fused kernels that do not return their ids write"):
        import_vllm([path], SHAPE)


def test_a_sentinel_that_wrapped_around(tmp_path):
    ids = choices(6)
    wrapped = ids.astype(np.uint8)
    wrapped[0] = 255
    path = tmp_path / "a.npy"
    path.write_bytes(npy(wrapped))
    ids[0] = -1
    assert_holds(import_vllm([path], SHAPE), ids, tmp_path)
    many = RouterShape(num_experts=256, moe_layers=(1, 2, 3))
    with pytest.raises(InputError, match=r"id 255 in uint8 may be expert 255 or a -1 that wrapped around; let the eng"):
        import_vllm([path], many)


@pytest.mark.parametrize(
    ("ids", "shape", "said"),
    [
        (choices(4, experts=9) + 8, SHAPE, r"expert id 1\d is outside \[0, 8\); give the right --experts or --config"),
        (choices(4) - 2, SHAPE, r"expert id -2 is outside \[0, 8\)"),
        (
            np.ones((4, 3, 2), int),
            SHAPE,
            r"token 0 chooses an expert twice in row 0 \(\[1, 1\]\), and no router does that",
        ),
        (choices(4, k=3), SHAPE, r"has 3 choices per token, and the model 2; give the right --config"),
        (choices(4, layers=2), SHAPE, r"has 2 rows of layers, and the model has 3 routed ones of 4; give the right"),
        (choices(4), UNNAMED, r"has 3 rows of layers and does not say which decoder layers they are; give the model's"),
        (
            choices(4),
            RouterShape(),
            r"num_experts is not in the file; give the model's config.json \(--config\) or --exp",
        ),
        (np.zeros((0, 3, 2), int), SHAPE, r"holds no routing of any token; was the engine told to return it\?"),
    ],
)
def test_ids_that_can_not_be_right(tmp_path, ids, shape, said):
    path = tmp_path / "a.npy"
    path.write_bytes(npy(ids.astype(np.int16)))
    with pytest.raises(InputError, match=said):
        import_vllm([path], shape)


def test_choices_in_the_order_of_their_ids_have_lost_theirs(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(npy(np.sort(choices(40), axis=-1)))
    assert import_vllm([path], SHAPE).metadata["is_ordered"] is False
    path.write_bytes(npy(choices(40)))
    assert "is_ordered" not in import_vllm([path], SHAPE).metadata


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        ("{", ArtifactError, r"it is no JSON \(JSONDecodeError\); export it again"),
        ("[]", ArtifactError, "a response is no JSON object; save what the server sent"),
        ("{}", ArtifactError, "a response has no list of choices; save what the server sent"),
        ({"choices": [{"routed_experts": "%%%"}]}, ArtifactError, r"the routing is no base64 \(.*\); export it again"),
        (
            {"choices": [{"routed_experts": "AAAA"}]},
            ArtifactError,
            r"the routing is no .npy array of numbers; export it",
        ),
        ({"choices": [{"routed_experts": [[[1], [2, 3]]]}]}, ArtifactError, "lists are of different lengths"),
        ({"choices": [{"routed_experts": [1, 2]}]}, ArtifactError, r"is not \[tokens, layers, k\] lists of integers"),
        (
            {"choices": [{"routed_experts": [[[0.5]]]}]},
            ArtifactError,
            r"is not \[tokens, layers, k\] lists of integers",
        ),
        ({"choices": [{"routed_experts": None}]}, InputError, "holds no routing of any token"),
        (
            {"choices": [{"routed_experts": [[[1, 2]] * 3], "token_ids": [1, 2, 3]}]},
            InputError,
            "a sequence has 3 tokens from position 0 on, and 1 were routed; routing covers all, or all but the last",
        ),
        (
            {"choices": [{"routed_experts": [[[1, 2]] * 3], "token_ids": [-1]}]},
            InputError,
            r"token ids must be integers from 0 to 2\*\*31 - 1; export it again",
        ),
        (
            {"prompt_routed_experts": [[[1, 2]] * 2], "choices": [{"routed_experts": [[[1, 2]] * 3]}]},
            ArtifactError,
            "prompt and choice are routed through different layers",
        ),
    ],
)
def test_vllm_responses_that_are_none(tmp_path, content, error, said):
    with pytest.raises(error, match=said):
        import_vllm([write(tmp_path / "a.json", content)], SHAPE)


def test_an_array_that_lies_about_its_size(tmp_path):
    path = tmp_path / "a.npy"
    for array, said in (
        (npy(choices(4))[:-8], r"claims the shape \(4, 3, 2\) and has 184 bytes; export it again"),
        (npy(np.zeros((2, 2), np.int32)), r"the routing has 2 axes, not \(tokens, layers, k\)"),
        (npy(np.zeros((2, 2, 2))), r"the routing has dtype float64, not integers; export it again"),
        (npy(np.array([None])), r"the routing is no .npy array of numbers; export it again"),
    ):
        path.write_bytes(array)
        with pytest.raises(ArtifactError, match=said):
            import_vllm([path], SHAPE)
    with pytest.raises(InputError, match=r"must end in .npy, .json, .jsonl or .bin, which say what of vLLM's it is"):
        import_vllm([tmp_path / "a.txt"], SHAPE)


def test_verifiers_pass_bytes_and_their_shape_on(tmp_path):
    ids = choices(5)
    routed = {"data": encoded(ids.astype(np.uint8)), "shape": list(ids.shape)}
    path = write(tmp_path / "a.json", {"choices": [{"routed_experts": routed}]})
    assert_holds(import_vllm([path], SHAPE), ids, tmp_path)
    for bad, said in (
        ({**routed, "shape": [5, 3, 3]}, r"claims the shape \[5, 3, 3\] and has 30 bytes; one byte is one id"),
        ({**routed, "shape": [5, 6]}, "has no data and shape"),
        ({**routed, "shape": [5, -3, -2]}, "has no data and shape"),
        ({"shape": [5, 3, 2]}, "has no data and shape"),
    ):
        with pytest.raises(ArtifactError, match=said):
            import_vllm([write(path, {"choices": [{"routed_experts": bad}]})], SHAPE)


def test_a_placement_is_no_routing(tmp_path):
    devices = [{"device_id": 0, "device_expert": [0, 1]}, {"device_id": 1, "device_expert": [2, 3]}]
    layer = {"layer_id": 0, "device_count": 2, "device_list": devices}
    path = write(tmp_path / "a.json", {"moe_layer_count": 1, "layer_list": [layer]})
    with pytest.raises(InputError, match=r"says where experts lie \(a placement for vLLM-Ascend\), not where tokens"):
        import_vllm([path], SHAPE)
