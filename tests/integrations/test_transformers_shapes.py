"""Shapes of transformers models: roles sum to the total, caches hold what the models really keep, published counts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from headgate.errors import ArtifactError, InputError
from headgate.integrations.transformers import cache_probe, shapes
from headgate.integrations.transformers.headers import compare_headers, read_checkpoint
from headgate.integrations.transformers.shapes import model_shape, read_model
from headgate.integrations.transformers.sites import find_sites
from headgate.integrations.transformers.tap import count_experts
from headgate.planning.catalogue import agrees, catalogue
from headgate.planning.memory import choose_precision, weight_bytes
from headgate.planning.parameters import Role
from integrations import zoo

KEEP_NO_CACHE = {"openai_privacy_filter", "vitpose_backbone"}  # encoders
NOT_COUNTED = {
    # In the small configuration all layers are linear, and its own code asks them for a length that they do not have.
    "glm5_next",
}
FROM_CONFIG = {"jetmoe"}  # its routed attention heads need data to run


@pytest.fixture
def without_cache(monkeypatch):
    """Half of the time goes into caches, which these tests do not look at."""
    monkeypatch.setattr(shapes, "probe_cache", lambda model: ((), ()))


@pytest.fixture
def small(monkeypatch):
    """Sizes an architecture of the zoo in its small configuration."""

    def build(name):
        chosen = zoo.model_class(name)
        config = zoo.derive_config(chosen.config_class, zoo.OWN.get(name, {}))

        def on_meta(config, name):
            with torch.device("meta"):
                return chosen(config)

        monkeypatch.setattr(shapes, "build_on_meta", on_meta)
        return model_shape(config, name=name), on_meta(config, name)

    return build


@pytest.mark.usefixtures("without_cache")
@pytest.mark.parametrize("name", zoo.architectures())
def test_roles_of_every_architecture_sum_to_the_total(name, small):
    shape, model = small(name)
    total = sum(parameter.numel() for parameter in model.parameters())
    if name == "longcat_flash":
        # Rows of the up projection that transformers allocates for experts without weights.
        total -= zoo.NUM_LAYERS * 4 * 2 * zoo.D_FF * zoo.D_MODEL
    assert shape.total == total == sum(shape.by_role().values())
    assert shape.by_role()[Role.ROUTED_EXPERTS] > 0
    assert shape.by_role()[Role.ATTENTION] > 0
    assert len(shape.routed) == len(find_sites(model))
    for layer, site in zip(shape.routed, find_sites(model), strict=True):
        zero = {"longcat_flash": 4, "zaya": 1}.get(name, 0)
        assert layer.num_zero_experts == zero
        assert layer.num_experts == count_experts(site) - zero == (9 if name == "doge" else zoo.NUM_EXPERTS)
        assert layer.expert_parameters > 0
        assert 0 < layer.top_k <= layer.num_experts
    # What a router or an expert is called in one family and not in another must not fall into the rest.
    assert (
        shape.by_role()[Role.OTHER] < shape.total / 5 or name == "qwen4_exp"
    )  # its streams are mixed by wide matrices
    assert (shape.by_role()[Role.ROUTER] > 0) == (name != "vitpose_backbone")
    active = shape.active()
    assert active["no_embeddings"] <= active["with_head"] <= active["with_embeddings_and_head"] <= shape.total


@pytest.mark.parametrize("name", sorted(set(zoo.architectures()) - KEEP_NO_CACHE - NOT_COUNTED))
def test_the_cache_is_what_the_model_keeps_when_it_runs(name, small):
    shape, _ = small(name)
    assert all("cache" not in note for note in shape.notes) or name in FROM_CONFIG
    model = zoo.build(name)
    inputs = zoo.example_inputs(model)
    inputs.pop("use_cache", None)
    if "decoder_input_ids" not in inputs:
        inputs["use_cache"] = True
    batch, length = inputs["input_ids"].shape
    with torch.no_grad():
        kept = kept_numbers(model(**inputs).past_key_values, length)
    grown = sum(layer.values_per_token * length for layer in shape.cache if layer.values_per_token >= 1)
    assert kept == batch * grown


def kept_numbers(cache, length: int) -> int:
    """Numbers of keys and values, and of whatever else a layer keeps of each token."""
    parts = [getattr(cache, part, None) for part in ("self_attention_cache", "cross_attention_cache")]
    if parts[0] is not None:
        return sum(kept_numbers(part, length) for part in parts)
    tensors = [value for layer in cache.layers for name, value in vars(layer).items() if is_kept(name, value, length)]
    return sum(tensor.numel() for tensor in tensors)


def is_kept(name: str, value: object, length: int) -> bool:
    is_grown = isinstance(value, Tensor) and value.dim() >= 3 and length in value.shape[1:-1]
    return is_grown and name.endswith(("keys", "values"))


def test_states_are_counted_in_the_dtype_that_the_model_keeps_them_in(small):
    shape, _ = small("qwen3_next")
    state, attention = shape.cache
    # A convolution's state over 48 channels and 4 steps in bfloat16, and a recurrent one in float32.
    assert (state.kind, state.state_bytes) == ("state", 48 * 4 * 2 + 2 * 8 * 8 * 4)
    assert (attention.kind, attention.num_heads) == ("full", 2)


def test_layers_that_keep_a_window_and_all_of_the_rest_compressed_are_two_entries(small):
    shape, _ = small("deepseek_v4")
    assert [(layer.kind, layer.window) for layer in shape.cache[:2]] == [("sliding", 64), ("full", None)]
    assert shape.cache[1].values_per_token == 8 / 128


def test_an_indexer_bounds_what_is_attended_to(small):
    assert {layer.attended for layer in small("glm_moe_dsa")[0].cache} == {4}


def test_experts_for_images_are_not_active_for_text(small):
    shape, _ = small("ernie4_5_vl_moe")
    assert [layer.token_fraction for layer in shape.routed] == [1.0, 0.0, 1.0, 0.0]


def test_a_cache_that_can_not_be_found_is_said_so(small):
    shape, _ = small("glm5_next")
    assert shape.cache == ()
    assert any(note.startswith("The cache is not counted") for note in shape.notes)


@pytest.mark.usefixtures("without_cache")
@pytest.mark.parametrize("entry", catalogue().values(), ids=lambda entry: entry.name)
def test_counts_equal_the_published_ones_to_their_printed_precision(entry):
    shape, published = read_model(entry.name)
    assert published is entry.published
    assert agrees(shape.total, published.total), shape.total
    active = shape.active()
    matches = published.compare(active)["matches"]
    assert matches, active
    if published.convention is not None:
        assert published.convention in matches
    # The figures that people mix up differ by far more than a rounding.
    expert = shape.routed[-1].expert_parameters
    assert not agrees(active["with_embeddings_and_head"], published.total)
    assert not agrees(shape.total, published.active)
    assert not agrees(expert, published.active)


@pytest.mark.usefixtures("without_cache")
@pytest.mark.parametrize(("name", "gibibytes"), [("gpt-oss-20b", "12.8"), ("gpt-oss-120b", "60.8")])
def test_mixed_precision_equals_the_checkpoints_that_the_model_card_lists(name, gibibytes):
    shape, _ = read_model(name)
    precision = choose_precision(shape)
    assert (precision.dense.name, precision.experts.name) == ("bf16", "mxfp4")
    assert f"{sum(weight_bytes(shape, precision).values()) / 2**30:.1f}" == gibibytes


def test_the_latent_cache_of_deepseek_v3_is_576_values_a_token_and_layer():
    shape, _ = read_model("deepseek-v2-lite")
    assert {(layer.kind, layer.values_per_token, layer.num_heads) for layer in shape.cache} == {("latent", 576.0, 1)}
    assert shape.cache[0].score_width == 16 * (512 + 64 + 512)
    assert shape.cache[0].prompt_score_width == 16 * (128 + 64 + 128)


def test_windows_of_gpt_oss_alternate():
    shape, _ = read_model("gpt-oss-20b")
    assert [layer.window for layer in shape.cache[:4]] == [128, None, 128, None]
    assert (shape.routed[0].d_model, shape.routed[0].d_ff) == (2880, 2880)


@pytest.mark.usefixtures("without_cache")
def test_layers_for_further_tokens_are_named_where_the_configuration_has_them():
    shape, _ = read_model("deepseek-v3")
    assert any("1 multi-token-prediction layer besides" in note for note in shape.notes)


def test_a_tied_head_is_counted_once():
    sizes = {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 64}
    config = transformers.MixtralConfig(**sizes, num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True)
    shape = model_shape(config, name="tied")
    assert shape.tied_head == shape.by_role()[Role.EMBEDDING] == 64 * 32
    assert shape.by_role()[Role.HEAD] == 0
    untied = model_shape(
        transformers.MixtralConfig(**{**config.to_dict(), "tie_word_embeddings": False}), name="untied"
    )
    assert untied.total == shape.total + 64 * 32
    assert untied.active()["with_head"] == shape.active()["with_head"]


def test_a_tower_is_its_own_role_and_its_attention_none_of_the_decoders():
    text = zoo.derive_config(transformers.Llama4TextConfig, {})
    vision = transformers.Llama4VisionConfig(
        hidden_size=32, intermediate_size=16, num_hidden_layers=1, num_attention_heads=4
    )
    config = transformers.Llama4Config(text_config=text, vision_config=vision)
    shape = model_shape(config, name="both")
    assert shape.by_role()[Role.VISION] > 0
    assert shape.active() == {**model_shape(text, name="text").active()}
    assert any("not active for a text token" in note for note in shape.notes)


def test_a_dense_model_has_no_routed_layer():
    config = transformers.LlamaConfig(hidden_size=32, num_hidden_layers=1, intermediate_size=8, vocab_size=16)
    shape = model_shape(config, name="dense")
    assert shape.routed == ()
    assert shape.active()["with_embeddings_and_head"] == shape.total
    assert shape.by_role()[Role.DENSE_MLP] == 3 * 32 * 8


def test_more_choices_than_experts_in_a_configuration_are_refused():
    config = transformers.MixtralConfig(num_local_experts=2, num_experts_per_tok=3, num_hidden_layers=1)
    with pytest.raises(ValueError, match=r"top_k \(=3\)"):
        model_shape(config, name="wrong")


def test_a_configuration_that_builds_no_model_is_refused():
    config = transformers.MixtralConfig(num_attention_heads=0)
    with pytest.raises(InputError, match=r"model \(=wrong\) can't be built from its configuration: ZeroDivisionError"):
        model_shape(config, name="wrong")


def test_what_is_no_language_model_is_refused():
    backbone = transformers.VitPoseBackboneConfig(hidden_size=32, num_hidden_layers=1, num_experts=4, part_features=8)
    with pytest.raises(InputError, match=r"of type 'vitpose' must be a language model, or hold one; what its experts"):
        model_shape(transformers.VitPoseConfig(backbone_config=backbone), name="poses")


def test_a_name_that_nothing_has_gets_a_hint():
    with pytest.raises(ArtifactError, match=r"there is no file mixtral-8x7.json.*did you mean mixtral-8x7b"):
        read_model("mixtral-8x7.json")


@pytest.fixture
def saved(tmp_path):
    """A small model on the disk, with its configuration."""
    config = zoo.derive_config(transformers.DeepseekV3Config, {"num_nextn_predict_layers": 1})
    model = transformers.DeepseekV3ForCausalLM(config)
    model.save_pretrained(tmp_path)
    return tmp_path, model


def test_headers_agree_with_the_model_and_name_what_transformers_does_not_load(saved):
    folder, model = saved
    shape, _ = read_model(str(folder))
    found = read_checkpoint(str(folder), shape)
    assert (found.difference, found.mtp_parameters, found.scale_bytes) == (0, 0, 0)
    assert found.buffers == sum(b.numel() for name, b in model.named_buffers() if name.endswith("correction_bias"))
    assert found.num_bytes == 4 * (shape.total + found.buffers)
    save_file({f"model.layers.{zoo.NUM_LAYERS}.eh_proj.weight": torch.zeros(32, 64)}, folder / "more.safetensors")
    more = read_checkpoint(str(folder / "config.json"), shape)
    assert (more.difference, more.mtp_parameters) == (0, 32 * 64)
    assert json.dumps(more.to_dict())


def test_headers_of_a_cut_off_checkpoint_say_what_is_missing(saved):
    shape, _ = read_model(str(saved[0]))
    found = compare_headers([("model.norm.weight", "BF16", (32,))], shape, source="here")
    assert found.difference == 32 - shape.total


def test_quantised_tensors_count_numbers_and_not_bytes(saved):
    shape = replace(read_model(str(saved[0]))[0], tied_head=5)
    tensors = [
        ("a_blocks", "U8", (4, 16)),
        ("a_scales", "U8", (4,)),
        ("b.weight", "F8_E4M3", (8, 8)),
        ("b.weight_scale_inv", "F32", (1, 1)),
        ("c.qweight", "I32", (2, 3)),
        ("lm_head.weight", "BF16", (2, 2)),
        ("mtp.0.up", "BF16", (3,)),
    ]
    found = compare_headers(tensors, shape, source="here")
    assert found.parameters == 2 * 64 + 64 + 8 * 6
    assert found.scale_bytes == 4 + 4
    assert found.mtp_parameters == 3
    assert found.num_bytes == 64 + 4 + 64 + 4 + 24 + 8 + 6


def test_names_of_the_catalogue_and_uncached_ids_have_no_headers(saved):
    shape, _ = read_model(str(saved[0]))
    assert read_checkpoint("olmoe-1b-7b", shape) is None
    assert read_checkpoint("nobody/nothing-at-all", shape) is None
    assert read_checkpoint("no such name!", shape) is None


def test_a_damaged_file_is_one_error(saved):
    folder, _ = saved
    shape, _ = read_model(str(folder))
    (folder / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(ArtifactError, match=r"model.safetensors can't be read: .*; download it again"):
        read_checkpoint(str(folder), shape)


def test_the_probe_leaves_the_model_as_it_was(small):
    _, model = small("mixtral")
    before = model.config._attn_implementation
    cache_probe.probe_cache(model)
    assert model.config._attn_implementation == before
    assert model.training
    assert all("forward" not in vars(site.module) for site in find_sites(model))
