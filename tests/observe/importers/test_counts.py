"""Engines that keep counts: TensorRT-LLM, DeepSpeed and llama.cpp."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from foreign import SHAPE, UNNAMED, assert_holds, choices, save_pt, write
from headgate.errors import ArtifactError, InputError
from headgate.observe.importers.counts import import_deepspeed, import_llama_cpp, import_tensorrt_llm
from headgate.observe.importers.shape import RouterShape


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
    trace = import_tensorrt_llm(statistic(tmp_path), RouterShape())
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
        import_tensorrt_llm(folder, RouterShape())
    assert import_tensorrt_llm(folder, RouterShape(), ranks="tokens").counts.sum().item() == 2 * 2 * 4 * 3 * 2
    assert import_tensorrt_llm(folder, RouterShape(), ranks="same").counts.sum().item() == 2 * 4 * 3 * 2


def test_tensorrt_llm_folders_that_can_not_be_right(tmp_path):
    with pytest.raises(InputError, match=r"^num_experts \(=9\) must be that of meta_info.json \(=8\)$"):
        import_tensorrt_llm(statistic(tmp_path), RouterShape(num_experts=9))
    write(tmp_path / "meta_info.json", {})
    with pytest.raises(ArtifactError, match=r"does not say num_experts; give the folder of the statistic"):
        import_tensorrt_llm(tmp_path, RouterShape())
    empty = tmp_path / "empty"
    empty.mkdir()
    write(empty / "meta_info.json", {"num_experts": 8})
    with pytest.raises(ArtifactError, match=r"has no rank\*.safetensors; give the folder of the statistic"):
        import_tensorrt_llm(empty, RouterShape())
    for arrays, said in (
        ({"1_2": np.zeros(7, np.int64)}, r"layer 2 has counts of shape \(7,\), not \(8,\)"),
        ({"x": np.zeros(8, np.int64)}, r"array 'x' is not named iteration_layer, or not of integers"),
    ):
        save_file(arrays, empty / "rank0.safetensors")
        with pytest.raises(ArtifactError, match=said):
            import_tensorrt_llm(empty, RouterShape())
    save_file({"1_2": np.ones((2, 2), np.int32), "2_3": np.ones((2, 2), np.int32)}, empty / "rank0_raw.safetensors")
    with pytest.raises(InputError, match=r"iteration 2 has not the same tokens in every layer; import whole ones"):
        import_tensorrt_llm(empty, RouterShape())


def test_llama_cpp_activations_are_counted(tmp_path):
    path = write(tmp_path / "a.csv", "layer,expert\n1,0\n1,3\n2,3\n1,3\n")
    trace = import_llama_cpp(path, UNNAMED)
    assert trace.layer_index.tolist() == [1, 2]
    assert trace.counts.tolist() == [[1, 0, 0, 2, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0]]
    with pytest.raises(InputError, match=r"num_experts is not in the file"):
        import_llama_cpp(path, RouterShape())
    with pytest.raises(InputError, match=r"expert id 9 is outside \[0, 8\)"):
        import_llama_cpp(write(path, "1,9\n"), UNNAMED)
    with pytest.raises(ArtifactError, match=r"line 1 is not layer,expert; export it again"):
        import_llama_cpp(write(path, "1;2\n"), UNNAMED)


OTHER_LAYERS = dataclasses.replace(UNNAMED, moe_layers=(7, 8, 9))
SAID = r"has the layers \[1.*\], and experts are in \[7, 8, 9\] by --config or --layers; give the model's own, or leave"


@pytest.mark.parametrize("raw", [False, True])
def test_tensorrt_llm_names_its_layers_itself(tmp_path, raw):
    with pytest.raises(InputError, match=SAID):
        import_tensorrt_llm(statistic(tmp_path, raw=raw), OTHER_LAYERS)


def test_llama_cpp_names_its_layers_itself(tmp_path):
    with pytest.raises(InputError, match=SAID):
        import_llama_cpp(write(tmp_path / "a.csv", "1,0\n"), OTHER_LAYERS)


def test_deepspeed_counts_all_choices_or_the_first(tmp_path):
    counts = [torch.arange(8) + layer for layer in range(3)]
    path = save_pt(tmp_path / "a.pt", counts)
    trace = import_deepspeed(path, SHAPE, counted="all")
    assert torch.equal(trace.counts, torch.stack(counts))
    assert trace.layer_index.tolist() == [1, 2, 3]
    assert "counted" not in trace.metadata
    first = import_deepspeed(path, SHAPE, counted="first")
    assert (first.metadata["counted"], first.topk_ids.shape[2]) == ("first choice", 1)
    with pytest.raises(InputError, match=r"may count all choices of a token or, as older versions do with top-2, only"):
        import_deepspeed(path, SHAPE)
    with pytest.raises(InputError, match=r"has counts of 3 layers and does not say which; name them by --layers or"):
        import_deepspeed(path, UNNAMED, counted="all")
    with pytest.raises(InputError, match=r"counts 8 experts, and the model has 4; give the right --experts"):
        import_deepspeed(path, RouterShape(num_experts=4), counted="all")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.ones(8), "is no list of exp_counts"),
        ([], "is no list of exp_counts"),
        ([torch.ones(2, 8)], "is no list of exp_counts"),
        ([torch.full((8,), 0.5)], "exp_counts are no whole numbers"),
    ],
)
def test_deepspeed_counts_that_are_none(tmp_path, value, said):
    with pytest.raises(ArtifactError, match=said):
        import_deepspeed(save_pt(tmp_path / "a.pt", value), SHAPE, counted="all")
