"""Some experts of a checkpoint: the rows and tensors that are read, and those that are not."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import conversion_mapping
from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter

from headgate.errors import ArtifactError, BackendError
from headgate.integrations.transformers.expert_rows import ExpertRows, choose_tensors, read_slices
from headgate.integrations.transformers.gates import WEIGHT_NAMES
from headgate.integrations.transformers.parallel_loading import build_skeleton, load_experts
from headgate.integrations.transformers.sites import find_sites
from integrations import zoo

# One by one (with a change of names), one by one with biases of the router, stacked and transposed with biases,
# alternating gate and up, and without a gate.
NAMES = ("mixtral", "deepseek_v3", "gpt_oss", "qwen3_moe", "nemotron_h", "granitemoe")


def save(model, folder):
    model.save_pretrained(folder, max_shard_size="40KB")  # several files
    return str(folder)


def load(path, mine, model_class=None):
    skeleton = build_skeleton(path, model_class)
    sites = find_sites(skeleton)
    held = {site.path: mine for site in sites}
    return load_experts(path, held, skeleton=skeleton, sites=sites)


@pytest.mark.parametrize("mine", [(0, 1, 2), (7, 2, 3), ()], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_the_wanted_experts_are_loaded_in_the_wanted_order_and_everything_else(name, mine, tmp_path):
    model = zoo.build(name)
    loaded = load(save(model, tmp_path), mine)
    paths = [site.path for site in find_sites(model)]
    expected = dict(model.named_parameters())
    assert type(loaded) is type(model)
    assert dict(loaded.named_parameters()).keys() == expected.keys()
    for key, found in loaded.named_parameters():
        path, _, last = key.rpartition(".")
        is_of_experts = path in paths and last in WEIGHT_NAMES
        assert torch.equal(found, expected[key][list(mine)] if is_of_experts else expected[key]), key
    assert not any(tensor.is_meta for tensor in loaded.buffers())
    assert loaded.generation_config.to_dict() == type(model).from_pretrained(tmp_path).generation_config.to_dict()


@given(rows=st.lists(st.integers(0, 8), max_size=9, unique=True))
@settings(deadline=None)
def test_rows_of_a_file_are_those_of_the_tensor(rows, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    whole = torch.arange(9 * 6, dtype=torch.int32).view(9, 2, 3)
    path = folder / "rows.safetensors"
    if not path.exists():
        save_file({"experts": whole}, path)
    with safe_open(path, framework="pt") as opened:
        part = ExpertRows(source=opened.get_slice("experts"), rows=tuple(rows))
        assert part.get_shape() == [len(rows), 2, 3]
        assert part.get_dtype() == "I32"
        assert torch.equal(part[...], whole[rows])


def test_experts_of_other_ranks_are_not_read(tmp_path):
    path = save(zoo.build("mixtral"), tmp_path)
    skeleton = build_skeleton(path)
    sites = find_sites(skeleton)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 1
    chosen = choose_tensors(skeleton, sites, {site.path: (5, 2) for site in sites}, read_slices(files))
    numbers = {re.search(r"experts\.(\d+)\.", key)[1] for key in chosen if ".experts." in key}
    assert numbers == {"0", "1"}
    per_layer = [key for key in chosen if ".layers.0." in key and ".experts." in key]
    assert len(per_layer) == 2 * 3


def test_a_conversion_that_mixes_experts_is_refused(tmp_path, monkeypatch):
    path = save(zoo.build("mixtral"), tmp_path)
    mixing = WeightConverter(
        source_patterns=[".experts.*.w2.weight"],
        target_patterns=".experts.down_proj",
        operations=[MergeModulelist(dim=0), Concatenate(dim=0)],
    )
    keep = conversion_mapping.get_model_conversion_mapping

    def with_mixing(model, *args, **kwargs):
        return [mixing, *keep(model, *args, **kwargs)]

    monkeypatch.setattr(conversion_mapping, "get_model_conversion_mapping", with_mixing)
    with pytest.raises(BackendError, match=r"\(=Concatenate\) that mixes experts, so no rank can read its own alone; "):
        load(path, (0,))


def test_a_checkpoint_of_another_number_of_experts_is_refused(tmp_path):
    model = zoo.build("gpt_oss")
    path = save(model, tmp_path)
    model.config.num_local_experts = 4
    model.config.save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match=r"has 8 experts in the checkpoint and 4 in the model; use the config.json"):
        load(path, (0,))


def test_a_folder_without_safetensors_and_a_quantised_model_are_refused(tmp_path):
    model = zoo.build("mixtral")
    model.config.save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match=r"holds no model.safetensors; save the model with save_pretrained"):
        load(str(tmp_path), (0,))
    model.config.quantization_config = {"quant_method": "mxfp4"}
    model.config.save_pretrained(tmp_path)
    with pytest.raises(BackendError, match=r"is quantised, and quantised experts keep the backend that they came with"):
        build_skeleton(str(tmp_path))
