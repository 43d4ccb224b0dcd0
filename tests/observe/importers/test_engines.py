"""Each engine's format, built to the letter of its documentation, and each hazard that it is known for."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import headgate
from headgate.errors import ArtifactError, InputError
from headgate.observe.importers.counts import import_llama_cpp, import_tensorrt_llm
from headgate.observe.importers.megatron import import_megatron
from headgate.observe.importers.router_logits import import_router_logits
from headgate.observe.importers.sglang import import_sglang
from headgate.observe.importers.shape import ModelShape, shape_of_config
from headgate.observe.importers.vllm import import_vllm
from headgate.observe.reader import open_trace
from headgate.observe.validate import validate_trace
from headgate.observe.writer import save_trace

# Four decoder layers, the first one dense.
SHAPE = ModelShape(num_experts=8, top_k=2, num_layers=4, moe_layers=(1, 2, 3))
UNNAMED = ModelShape(num_experts=8, top_k=2)


def choices(tokens, *, layers=3, k=2, experts=8, seed=0):
    """[T, L, K] distinct ids."""
    rng = np.random.default_rng(seed)
    return np.argsort(rng.random((tokens, layers, experts)), axis=-1)[..., :k]


def assert_holds(trace, ids, folder):
    """The trace has these ids [T, L, K], and breaks no rule of the format."""
    assert np.array_equal(trace.topk_ids.numpy(), np.asarray(ids).transpose(1, 0, 2))
    assert trace.layer_index.tolist() == [1, 2, 3]
    save_trace(folder / "imported.safetensors", trace)
    assert validate_trace(open_trace(folder / "imported.safetensors")) == []


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def encoded(array):
    return base64.b64encode(array.tobytes()).decode()


# vLLM


def test_vllm_1_fills_dense_layers_with_zeros(tmp_path):
    ids = choices(6)
    path = tmp_path / "a.npy"
    path.write_bytes(npy(np.concatenate([np.zeros((6, 1, 2), int), ids], axis=1).astype(np.int32)))
    assert_holds(import_vllm([path], SHAPE), ids, tmp_path)
    with pytest.raises(InputError, match=r"rows \[0\] hold only expert 0 or none, as engines fill dense layers; give"):
        import_vllm([path], UNNAMED)
    wrong = ModelShape(num_experts=8, num_layers=4, moe_layers=(0, 2, 3))
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
    named = ModelShape(num_experts=8, top_k=2, num_layers=4, moe_layers=(1, 2, 3), num_rows=3)
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
    many = ModelShape(num_experts=256, moe_layers=(1, 2, 3))
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
            ModelShape(),
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


# SGLang, per request


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
        import_sglang([path], ModelShape(num_experts=8, moe_layers=(1, 2, 3)))


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


# SGLang's recorder


def save_pt(path, value):
    torch.save(value, path)
    return path


def test_sglang_stat_is_summed_already(tmp_path):
    counts = torch.arange(2 * 4 * 8, dtype=torch.int32).view(2, 4, 8)
    counts[:, 0] = 0
    path = save_pt(
        tmp_path / "a.pt", {"rank": 0, "logical_count": counts, "average_utilization_rate_over_window": None}
    )
    for shape in (SHAPE, UNNAMED):
        trace = import_sglang([path], shape)
        assert trace.layer_index.tolist() == [1, 2, 3]
        assert torch.equal(trace.counts, counts.sum(0)[1:].long())
        assert (trace.num_tokens, trace.metadata["content"]) == (0, "counts")
    with pytest.raises(InputError, match=r"files \(=2\) of mode stat are summed over the ranks already, and several"):
        import_sglang([path, path], SHAPE)


TO_LOGICAL = torch.tensor([[3, 1, 0, 2, 3, 4, 5, 6, 7, 1]]).repeat(4, 1)  # Experts 1 and 3 have two places each.


def test_sglang_passes_are_summed_over_ranks_by_the_map(tmp_path):
    physical = torch.arange(40).view(4, 10)
    paths = [
        save_pt(
            tmp_path / f"{rank}.pt",
            {
                "records": [{"forward_pass_id": 0, "rank": rank, "global_physical_count": physical * (rank + 1)}],
                "last_physical_to_logical_map": TO_LOGICAL,
            },
        )
        for rank in range(2)
    ]
    trace = import_sglang(paths, SHAPE)
    assert trace.counts[0, 3].item() == 3 * (10 + 14)
    assert trace.counts.sum().item() == 3 * physical[1:].sum().item()


def token_record(tokens=6, **changes):
    physical = torch.full((4, tokens, 8), -1, dtype=torch.int32)
    ids = torch.from_numpy(choices(tokens, experts=6)).transpose(0, 1)
    physical[1:, :, :2] = ids.int() + 2  # Places 2 to 7, each of an expert of its own.
    return {
        "forward_pass_id": 0,
        "rank": 0,
        "input_ids": torch.arange(tokens),
        "positions": torch.tensor([0, 1, 2, 5, 6, 7][:tokens]),
        "extend_seq_lens": [3, 3],
        "forward_mode": 1,
        "topk_ids_of_layer": physical,
        **changes,
    }


def test_sglang_tokens_become_logical(tmp_path):
    path = save_pt(tmp_path / "a.pt", {"records": [token_record()], "last_physical_to_logical_map": TO_LOGICAL})
    trace = import_sglang([path], SHAPE)
    assert_holds(trace, TO_LOGICAL[0][torch.from_numpy(choices(6, experts=6)) + 2], tmp_path)
    assert trace.seq_offsets.tolist() == [0, 3, 6]
    assert trace.position.tolist() == [0, 1, 2, 5, 6, 7]
    assert trace.token_ids.tolist() == [0, 1, 2, 3, 4, 5]


def fused():
    record = token_record()
    record["topk_ids_of_layer"][1:, :, 2] = 9
    return record


@pytest.mark.parametrize(
    ("dump", "shape", "said"),
    [
        (
            {"records": [token_record()]},
            SHAPE,
            "has physical ids and no last_physical_to_logical_map, so what they are",
        ),
        (
            {"records": [fused()], "last_physical_to_logical_map": TO_LOGICAL},
            SHAPE,
            "has more than 2 choices per token: with shared experts fused the recorder mixes them in",
        ),
        (
            {"records": [token_record()], "last_physical_to_logical_map": TO_LOGICAL},
            ModelShape(num_experts=64, top_k=9, num_layers=4, moe_layers=(1, 2, 3)),
            r"top_k \(=9\) is more than the 8 choices that the recorder keeps; they are cut off",
        ),
        (
            {"records": [token_record()], "last_physical_to_logical_map": TO_LOGICAL[:, :5]},
            SHAPE,
            r"physical ids do not fit the map of shape \(4, 5\); the map may have changed meanwhile",
        ),
        ({"records": [], "last_physical_to_logical_map": TO_LOGICAL}, SHAPE, "holds no record; was anything recorded"),
        (
            {
                "records": [{"global_physical_count": torch.ones(4, 10, dtype=torch.int32)}],
                "last_physical_to_logical_map": TO_LOGICAL + 1,
            },
            SHAPE,
            r"the map of physical to logical ids has shape \(4, 10\) and ids up to 8, for \(4, 10\) and 8 experts",
        ),
        ({"logical_count": torch.zeros(1, 4, 8, dtype=torch.int32)}, SHAPE, "holds no count above 0"),
        ({"logical_count": torch.full((1, 4, 8), -1)}, SHAPE, "has counts below 0, so they have run over"),
    ],
)
def test_sglang_recordings_that_are_ambiguous(tmp_path, dump, shape, said):
    with pytest.raises(InputError, match=said):
        import_sglang([save_pt(tmp_path / "a.pt", dump)], shape)


@pytest.mark.parametrize(
    ("dump", "said"),
    [
        ([1], "is no dump of the expert distribution recorder"),
        ({"records": 3}, "has no list of records"),
        ({"logical_count": torch.zeros(4, 8)}, "logical_count is not an array of integers with 3 axes"),
        (
            {"records": [token_record(extend_seq_lens=[3, 4])], "last_physical_to_logical_map": TO_LOGICAL},
            "extend_seq_lens do not add up to the 6 tokens",
        ),
        (
            {"records": [token_record(input_ids=torch.arange(5))], "last_physical_to_logical_map": TO_LOGICAL},
            "a record has 6 routed tokens and 5 input_ids",
        ),
    ],
)
def test_sglang_recordings_that_are_damaged(tmp_path, dump, said):
    with pytest.raises(ArtifactError, match=said):
        import_sglang([save_pt(tmp_path / "a.pt", dump)], SHAPE)


class Harmful:
    """What a pickle could do: call anything."""

    def __reduce__(self):
        return print, ("called",)


def test_code_in_a_pt_file_is_never_run(tmp_path, capsys):
    path = save_pt(tmp_path / "a.pt", {"logical_count": Harmful()})
    for read in (lambda: import_sglang([path], SHAPE), lambda: import_megatron([path], SHAPE)):
        with pytest.raises(ArtifactError, match=r"it is damaged, or holds code, which is never run"):
            read()
    assert capsys.readouterr().out == ""


def test_sglang_older_csv_per_rank(tmp_path):
    paths = [
        write(tmp_path / f"{rank}.csv", f"layer_id,expert_id,count\n1,0,{rank + 1}\n1,7,5\n3,2,1\n")
        for rank in range(2)
    ]
    trace = import_sglang(paths, UNNAMED)
    assert trace.layer_index.tolist() == [1, 3]
    assert trace.counts.tolist() == [[3, 0, 0, 0, 0, 0, 0, 10], [0, 0, 2, 0, 0, 0, 0, 0]]
    with pytest.raises(InputError, match=r"expert id 8 is outside \[0, 8\); give the right --experts"):
        import_sglang([write(tmp_path / "b.csv", "1,8,1\n")], UNNAMED)
    with pytest.raises(ArtifactError, match=r"line 2 is not layer_id,expert_id,count; export it again"):
        import_sglang([write(tmp_path / "b.csv", "1,1,1\n1,x,1\n")], UNNAMED)
    with pytest.raises(InputError, match=r"files end in \['.csv', '.pt'\] and must all be .json or .jsonl, or .pt, or"):
        import_sglang([paths[0], tmp_path / "a.pt"], UNNAMED)


# Megatron-Core


def test_megatron_replay_lists_are_in_the_order_of_the_routers(tmp_path):
    ids = choices(5)
    path = save_pt(tmp_path / "a.pt", [torch.from_numpy(ids[:, layer]) for layer in range(3)])
    assert_holds(import_megatron([path], SHAPE), ids, tmp_path)
    with pytest.raises(InputError, match=r"does not say which decoder layers they are"):
        import_megatron([path], UNNAMED)
    with pytest.raises(InputError, match=r"replay lists \(=2\) have no token ids to tell ranks apart; import one at a"):
        import_megatron([path, path], SHAPE)
    for bad, said in (
        ({}, "is no list of tensors"),
        ([torch.zeros(2, 2), torch.zeros(2, 2)], "or not integers"),
        ([torch.zeros(2, 2, dtype=torch.int64), torch.zeros(3, 2, dtype=torch.int64)], "are of different shapes"),
    ):
        with pytest.raises(ArtifactError, match=said):
            import_megatron([save_pt(tmp_path / "b.pt", bad)], SHAPE)


def router_trace(ids, *, rank=0, steps=(0,), **changes):
    records = [
        {
            "step": step,
            "stage": "pre_dispatch",
            "block": "decoder",
            "layer": layer + 1,
            "rank": rank,
            "num_tokens": len(ids),
            "topk": ids.shape[2],
            "top_indices": ids[:, layer].tolist(),
            **changes,
        }
        for step in steps
        for layer in range(ids.shape[1])
    ]
    return "\n".join(map(json.dumps, records)) + "\n"


def test_megatron_router_trace_names_its_layers(tmp_path):
    ids = choices(5)
    mtp = router_trace(ids, block="mtp", mtp_idx=0)
    path = write(tmp_path / "router_trace_rank0.jsonl", router_trace(ids, steps=(0, 1)) + mtp)
    trace = import_megatron([path], UNNAMED)
    assert_holds(trace, np.concatenate([ids, ids]), tmp_path)
    assert trace.seq_offsets.tolist() == [0, 5, 10]


def test_megatron_ranks_are_asked_about(tmp_path):
    ids = choices(4), choices(4, seed=1)
    paths = [write(tmp_path / f"{rank}.jsonl", router_trace(ids[rank], rank=rank)) for rank in range(2)]
    with pytest.raises(
        InputError, match=r"router traces \(=2\) may hold different tokens \(data parallel\) or the same"
    ):
        import_megatron(paths, SHAPE)
    assert_holds(import_megatron(paths, SHAPE, ranks="tokens"), np.concatenate(ids), tmp_path)
    assert_holds(import_megatron(paths, SHAPE, ranks="same"), ids[0], tmp_path)


def test_megatron_bool_maps_have_lost_the_order(tmp_path):
    path = write(tmp_path / "a.jsonl", router_trace(np.sort(choices(20), axis=-1)))
    assert import_megatron([path], SHAPE).metadata["is_ordered"] is False


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        ("[]\n", ArtifactError, "a record is no JSON object"),
        ("\n", InputError, "holds no record of the decoder; was anything recorded"),
        ("{}\n", ArtifactError, "a record has no step and layer"),
        (router_trace(choices(2), num_tokens=3), ArtifactError, "has not as many top_indices as it says"),
        (router_trace(choices(2), steps=(0, 0)), InputError, "has step 0, layer 1 twice, so runs were appended"),
        (
            router_trace(choices(2)).splitlines()[0] + "\n" + router_trace(choices(3), steps=(1,)),
            InputError,
            "not the sa",
        ),
        (router_trace(choices(2, layers=2)), InputError, r"has the layers \[1, 2\], and the config \[1, 2, 3\]"),
        (router_trace(choices(2)) + "{", ArtifactError, r"line 4 is no JSON \(JSONDecodeError\)"),
    ],
)
def test_megatron_traces_that_can_not_be_right(tmp_path, content, error, said):
    with pytest.raises(error, match=said):
        import_megatron([write(tmp_path / "a.jsonl", content)], SHAPE)
    with pytest.raises(InputError, match=r"files end in \['.txt'\] and must be one .pt, or .jsonl router traces"):
        import_megatron([tmp_path / "a.txt"], SHAPE)


# TensorRT-LLM


def statistic(folder, ranks=1, raw=False, **meta):
    write(folder / "meta_info.json", {"num_experts": 8, "num_experts_per_token": 2, **meta})
    for rank in range(ranks):
        ids = choices(4, seed=rank).astype(np.int32)
        values = {
            f"{100 + step}_{layer + 1}": ids[:, layer] if raw else np.bincount(ids[:, layer].ravel(), minlength=8)
            for step in range(2)
            for layer in range(3)
        }
        save_file(
            {k: np.ascontiguousarray(v) for k, v in values.items()}, folder / f"rank{rank}{'_raw' * raw}.safetensors"
        )
    return folder


def test_tensorrt_llm_counts(tmp_path):
    trace = import_tensorrt_llm(statistic(tmp_path), ModelShape())
    wanted = np.stack([np.bincount(choices(4)[:, layer].ravel(), minlength=8) for layer in range(3)]) * 2
    assert trace.counts.tolist() == wanted.tolist()
    assert trace.layer_index.tolist() == [1, 2, 3]


def test_tensorrt_llm_raw(tmp_path):
    ids = choices(4)
    assert_holds(import_tensorrt_llm(statistic(tmp_path, raw=True), SHAPE), np.concatenate([ids, ids]), tmp_path)


def test_tensorrt_llm_ranks_are_asked_about(tmp_path):
    folder = statistic(tmp_path, ranks=2)
    with pytest.raises(
        InputError, match=r"ranks \(=2\) may have counted different tokens \(data parallel\) or the same"
    ):
        import_tensorrt_llm(folder, ModelShape())
    assert import_tensorrt_llm(folder, ModelShape(), ranks="tokens").counts.sum().item() == 2 * 2 * 4 * 3 * 2
    assert import_tensorrt_llm(folder, ModelShape(), ranks="same").counts.sum().item() == 2 * 4 * 3 * 2


def test_tensorrt_llm_folders_that_can_not_be_right(tmp_path):
    with pytest.raises(InputError, match=r"^num_experts \(=9\) must be that of meta_info.json \(=8\)$"):
        import_tensorrt_llm(statistic(tmp_path), ModelShape(num_experts=9))
    write(tmp_path / "meta_info.json", {})
    with pytest.raises(ArtifactError, match=r"does not say num_experts; give the folder of the statistic"):
        import_tensorrt_llm(tmp_path, ModelShape())
    empty = tmp_path / "empty"
    empty.mkdir()
    write(empty / "meta_info.json", {"num_experts": 8})
    with pytest.raises(ArtifactError, match=r"has no rank\*.safetensors; give the folder of the statistic"):
        import_tensorrt_llm(empty, ModelShape())
    for arrays, said in (
        ({"1_2": np.zeros(7, np.int64)}, r"layer 2 has counts of shape \(7,\), not \(8,\)"),
        ({"x": np.zeros(8, np.int64)}, r"array 'x' is not named iteration_layer, or not of integers"),
    ):
        save_file(arrays, empty / "rank0.safetensors")
        with pytest.raises(ArtifactError, match=said):
            import_tensorrt_llm(empty, ModelShape())
    save_file({"1_2": np.ones((2, 2), np.int32), "2_3": np.ones((2, 2), np.int32)}, empty / "rank0_raw.safetensors")
    with pytest.raises(InputError, match=r"iteration 2 has not the same tokens in every layer; import whole ones"):
        import_tensorrt_llm(empty, ModelShape())


# transformers


def logits(tokens=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(tokens, 8, generator=generator) for _ in range(3))


def test_router_logits_are_routed_by_the_family(tmp_path):
    path = save_pt(tmp_path / "a.pt", logits())
    trace = import_router_logits(path, SHAPE, router="mixtral")
    ids = torch.stack([row.topk(2).indices for row in logits()], dim=1)
    assert_holds(trace, ids, tmp_path)
    weights = torch.stack([row.topk(2).values.softmax(-1) for row in logits()])
    # float16 keeps 11 bits.
    assert (trace.topk_weights.float() - weights).abs().max() < 2**-11
    assert torch.equal(trace.router_logits, torch.stack(logits()).half())


def test_router_logits_with_padding(tmp_path):
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    value = {"router_logits": logits(), "attention_mask": mask, "input_ids": torch.arange(6).view(2, 3)}
    trace = import_router_logits(save_pt(tmp_path / "a.pt", value), SHAPE, router="qwen3_moe")
    assert trace.phase.tolist() == [0, 0, 3, 0, 0, 0]
    assert trace.seq_offsets.tolist() == [0, 3, 6]
    assert trace.counts.sum().item() == 5 * 3 * 2


@pytest.mark.parametrize(
    ("value", "router", "error", "said"),
    [
        (logits(), None, InputError, "router logits do not say how the model chooses from them; name its family by"),
        (
            logits(),
            "minimax_m2",
            InputError,
            r"chooses by more than its logits \(a selection bias\), so they do",
        ),
        (logits(), "expert_choice", InputError, r"\(selection 'expert_choice', capacity\)"),
        (
            tuple(row.softmax(1) for row in logits()),
            "mixtral",
            InputError,
            "are not negative and sum to 1, so these are",
        ),
        (tuple(row.softmax(1).bfloat16() for row in logits()), "mixtral", InputError, "so these are probabilities"),
        ((torch.full((2, 8), float("nan")),) * 3, "mixtral", InputError, "entry 0 holds NaN or infinite logits"),
        (
            logits()[:2],
            "mixtral",
            InputError,
            r"has 2 entries and the model 3 routed layers; entry i need not be layer",
        ),
        ((), "mixtral", ArtifactError, "holds no tuple of router logits"),
        ((torch.zeros(2, 8), torch.zeros(3, 8)), "mixtral", ArtifactError, "are of different shapes, or empty"),
        (
            {"router_logits": logits(), "attention_mask": torch.ones(2, 2, dtype=torch.int64)},
            "mixtral",
            ArtifactError,
            r"attention_mask is not \(batch, sequence\) of the 6 routed tokens",
        ),
    ],
)
def test_router_logits_that_do_not_say_the_choice(tmp_path, value, router, error, said):
    with pytest.raises(error, match=said):
        import_router_logits(save_pt(tmp_path / "a.pt", value), SHAPE, router=router)


def test_router_logits_of_another_model(tmp_path):
    with pytest.raises(InputError, match=r"the logits are of 8 experts, and the model has 9; give its config"):
        import_router_logits(save_pt(tmp_path / "a.pt", logits()), ModelShape(num_experts=9), router="mixtral")


# llama.cpp


def test_llama_cpp_activations_are_counted(tmp_path):
    path = write(tmp_path / "a.csv", "layer,expert\n1,0\n1,3\n2,3\n1,3\n")
    trace = import_llama_cpp(path, UNNAMED)
    assert trace.layer_index.tolist() == [1, 2]
    assert trace.counts.tolist() == [[1, 0, 0, 2, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0]]
    with pytest.raises(InputError, match=r"num_experts is not in the file"):
        import_llama_cpp(path, ModelShape())
    with pytest.raises(InputError, match=r"expert id 9 is outside \[0, 8\)"):
        import_llama_cpp(write(path, "1,9\n"), UNNAMED)
    with pytest.raises(ArtifactError, match=r"line 1 is not layer,expert; export it again"):
        import_llama_cpp(write(path, "1;2\n"), UNNAMED)


# Shapes


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        ({"num_local_experts": 8}, (0, 1, 2, 3)),
        ({"n_routed_experts": 8, "first_k_dense_replace": 1, "moe_layer_freq": 1}, (1, 2, 3)),
        ({"n_routed_experts": 8, "moe_layer_freq": [0, 1, 0, 1]}, (1, 3)),
        ({"num_experts": 8, "decoder_sparse_step": 2, "mlp_only_layers": []}, (1, 3)),
        ({"num_experts": 8, "decoder_sparse_step": 1, "mlp_only_layers": [2]}, (0, 1, 3)),
        ({"num_local_experts": 8, "moe_layers": [1, 3]}, (1, 3)),
        ({"text_config": {"num_local_experts": 8, "interleave_moe_layer_step": 2, "num_hidden_layers": 4}}, (1, 3)),
    ],
)
def test_the_shape_of_a_config(tmp_path, config, layers):
    path = write(tmp_path / "config.json", {"num_hidden_layers": 4, "num_experts_per_tok": 2, **config})
    found = shape_of_config(path)
    assert (found.num_experts, found.top_k, found.moe_layers) == (8, 2, layers)


def test_configs_that_are_none(tmp_path):
    with pytest.raises(InputError, match=r"has none of n_routed_experts, .*; give a Mixture-of-Experts model's config"):
        shape_of_config(write(tmp_path / "config.json", {"num_hidden_layers": 4}))
    with pytest.raises(InputError, match=r"holds no JSON object; give the model's config.json"):
        shape_of_config(write(tmp_path / "config.json", []))
    with pytest.raises(InputError, match=r"^top_k \(=0\) must be between 1 and 65535; give the model's own$"):
        ModelShape(top_k=0)
    with pytest.raises(InputError, match=r"^moe_layers \(=\[1, 1\]\) must be distinct decoder layers, from 0"):
        ModelShape(moe_layers=(1, 1))


def test_an_imported_trace_can_be_compared(tmp_path):
    ids = choices(30)
    path = tmp_path / "a.npy"
    path.write_bytes(npy(ids))
    trace = import_vllm([path], SHAPE)
    assert isinstance(trace, headgate.RoutingTrace)
    from headgate.observe.diff import diff_traces

    assert diff_traces(trace, trace, assume_aligned=True).agreement.overlap == 1.0
