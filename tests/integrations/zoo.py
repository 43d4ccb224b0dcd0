"""Every MoE architecture of the installed transformers, found by reading its source, and built small.

Nothing here lists architectures that work: they are found, and their configurations are derived from the names of
the fields. What is listed are values that a single architecture needs, and what can't be built, with the reason.
"""

from __future__ import annotations

import ast
import copy
import functools
import importlib
import inspect
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

MODELS = Path(transformers.__file__).parent / "models"

D_MODEL, D_FF, NUM_EXPERTS, TOP_K, NUM_LAYERS, VOCABULARY = 32, 12, 8, 3, 2, 64

_EXPERTS_CLASS = re.compile(r"(Experts|NaiveMoe|CDMoE)$")


@functools.cache
def architectures() -> tuple[str, ...]:
    """The folders of transformers.models whose modeling file defines experts, in or outside the interface."""
    return tuple(sorted(path.parent.name for path in MODELS.glob("*/modeling_*.py") if experts_classes(path)))


def experts_classes(path: Path) -> list[str]:
    """The classes of a modeling file that are named as experts or decorated as such."""
    text = path.read_text(encoding="utf-8")
    if "Experts" not in text and "Moe" not in text and "MoE" not in text:
        return []
    classes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    return [node.name for node in classes if _EXPERTS_CLASS.search(node.name) or "use_experts" in decorators(node)]


def decorators(node: ast.ClassDef) -> str:
    return " ".join(ast.unparse(decorator) for decorator in node.decorator_list)


def is_in_interface(name: str) -> bool:
    """Whether an architecture's experts dispatch through the interface."""
    return "@use_experts_implementation" in modeling_path(name).read_text(encoding="utf-8")


def modeling_path(name: str) -> Path:
    return next((MODELS / name).glob("modeling_*.py"))


# Derived sizes: the names under which configurations ask for them.
SIZES: Mapping[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "moe_hidden_size", "text_hidden_size"), D_MODEL),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "ffn_hidden_size"), D_FF),
    **dict.fromkeys(("intermediate_size", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_dim"), 16),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_experts_intermediate_size"), 16),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "expert_dim"), 16),
    **dict.fromkeys(("shared_intermediate_size", "dense_intermediate_size", "share_expert_dim"), 16),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layers", "encoder_layers", "decoder_layers"), NUM_LAYERS),
    "num_decoder_layers": NUM_LAYERS,
    **dict.fromkeys(("num_attention_heads", "n_heads", "num_heads", "linear_num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "swa_num_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "kv_n_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "index_n_heads"), 2),
    **dict.fromkeys(("head_dim", "v_head_dim", "kv_channels", "d_kv", "swa_head_dim", "d_rel", "index_head_dim"), 8),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 8),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "mamba_head_dim", "mamba_d_head"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank", "router_hidden_size"), 16),
    **dict.fromkeys(("ssm_state_size", "mamba_d_state", "mamba_num_heads", "mamba_n_heads"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), NUM_EXPERTS),
    **dict.fromkeys(("num_experts_per_tok", "moe_top_k", "top_k_experts", "moe_topk", "moe_k"), TOP_K),
    **dict.fromkeys(("n_shared_experts", "hc_mult", "topk_group", "o_groups"), 1),
    "n_group": 2,
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "unpadded_vocab_size"), VOCABULARY),
    **dict.fromkeys(("max_position_embeddings", "max_seq_len", "sliding_window", "sliding_window_size"), 64),
    "hidden_size_per_layer_input": 0,  # as in the Gemma 4 that has experts
    "index_topk": 4,
    "rotary_dim": 8,
    "pad_token_id": 0,
    # Every layer gets experts.
    "mlp_layer_types": ["sparse"] * NUM_LAYERS,
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"), 0),
    "mlp_only_layers": [],
    "enable_moe_block": True,
    "is_moe": True,
    **dict.fromkeys(("encoder_sparse_step", "decoder_sparse_step"), 1),
    **dict.fromkeys(("num_sparse_encoder_layers", "num_sparse_decoder_layers"), NUM_LAYERS),
    # No dropout, so that training runs compare.
    **dict.fromkeys(("dropout", "dropout_rate", "attention_dropout", "hidden_dropout", "moe_token_dropout"), 0.0),
    **dict.fromkeys(("encoder_layerdrop", "decoder_layerdrop", "router_jitter_noise"), 0.0),
}

# What one architecture needs besides: mixed layer types in so few layers, or a number that its formula fixes.
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
OWN: Mapping[str, Mapping[str, Any]] = {
    "bailing_hybrid": HYBRID,
    "deepseek_v4": {"mlp_layer_types": ["hash_moe", "moe"], "num_key_value_heads": 1},
    "ernie4_5_vl_moe": {
        "moe_intermediate_size": [D_FF, D_FF],
        "rope_parameters": {**ROPE, "mrope_section": [1, 1, 2]},
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": D_FF, "moe_num_experts": NUM_EXPERTS, "moe_top_k": TOP_K},
    },
    "doge": {"num_experts": 9},  # a square: the product of its keys
    "glm4v_moe": {"rope_parameters": {**ROPE, "partial_rotary_factor": 1.0, "mrope_section": [2, 1, 1]}},
    "glm5_next": {"index_kpool": 4, "qk_rope_head_dim": 0},
    "granitemoehybrid": HYBRID,
    "jamba": {"expert_layer_period": 1, "expert_layer_offset": 0, "attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": HYBRID,
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"zero_expert_num": 4},
    "qwen3_5_moe": HYBRID,
    "qwen3_next": HYBRID,
    "qwen4_exp": {
        **HYBRID,
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
    },
    "step3p7": {"swiglu_limits": [0.0, 0.5], "swiglu_limits_shared": [0.0, 0.5]},
    "vitpose_backbone": {"image_size": [16, 16], "patch_size": [8, 8], "part_features": 8},
    "zaya": {"num_experts_per_tok": 1},
}


@functools.cache
def model_class(name: str) -> type[PreTrainedModel]:
    """The class to build: a causal language model where there is one, else the smallest that holds the experts."""
    module = importlib.import_module(f"transformers.models.{name}.{modeling_path(name).stem}")
    found = [value for _, value in inspect.getmembers(module, inspect.isclass) if is_model(value, module.__name__)]
    for ending in ("ForCausalLM", "TextModel", "ForConditionalGeneration", "Backbone", "Model"):
        for value in found:
            if value.__name__.endswith(ending):
                return value
    raise LookupError(f"{name}: none of {[value.__name__ for value in found]} is a model to build")


def is_model(value: type, module: str) -> bool:
    return issubclass(value, PreTrainedModel) and value.__module__ == module and value.config_class is not None


def derive_config(config_class: type[PreTrainedConfig], own: Mapping[str, Any]) -> PreTrainedConfig:
    """A small configuration: every field whose name is known gets a size, the others their defaults.

    Args:
        config_class: of the model.
        own: values that this architecture needs besides.
    """
    fields = {name: field.type for name, field in config_class.__dataclass_fields__.items()}
    values = {name: SIZES[name] for name in fields if name in SIZES}
    if "kv_lora_rank" in fields:  # latent attention: as many key heads as query heads
        values["num_key_value_heads"] = SIZES["num_attention_heads"]
    for name, sub_class in getattr(config_class, "sub_configs", {}).items():
        if hasattr(sub_class, "__dataclass_fields__"):
            values[name] = derive_config(sub_class, {}).to_dict()
    return config_class(**{**values, **own})


def build(name: str) -> PreTrainedModel:
    """The architecture at its small sizes, with random weights, in float32 and eval mode."""
    chosen = model_class(name)
    config = derive_config(chosen.config_class, OWN.get(name, {}))
    config._experts_implementation = "eager"
    model = chosen(config).eval()
    fill(model, name)
    return model


@torch.no_grad()
def fill(model: nn.Module, name: str) -> None:
    """Draw every matrix anew, large enough that the experts shape the output; transformers' own start near zero."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    for path, parameter in model.named_parameters():
        if parameter.dim() >= 2:
            fan_in = parameter.shape[1] if parameter.dim() == 3 else parameter.shape[-1]
            parameter.normal_(0.0, fan_in**-0.5, generator=generator)
        elif path.endswith("bias"):
            parameter.normal_(0.0, 0.1, generator=generator)
    for path, buffer in model.named_buffers():
        if path.endswith(("correction_bias", "balancing_biases")):
            buffer.normal_(0.0, 0.1, generator=generator)
        elif path.endswith("tid2eid"):
            order = torch.rand(len(buffer), NUM_EXPERTS, generator=generator).argsort(dim=1)
            buffer.copy_(order[:, : buffer.shape[1]])


def example_inputs(model: PreTrainedModel) -> dict[str, Any]:
    """Token ids for two sequences, for both halves where there is an encoder."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (2, 7), generator=generator)
    parameters = inspect.signature(model.forward).parameters
    if model.main_input_name == "pixel_values":
        pixels = torch.rand(2, 3, 16, 16, generator=generator)
        return {"pixel_values": pixels, "dataset_index": torch.tensor([1, 4])}
    inputs = {"input_ids": ids}
    if "decoder_input_ids" in parameters:
        inputs["decoder_input_ids"] = ids.flip(1)
    if "use_cache" in parameters:
        inputs["use_cache"] = False
    return inputs


def cast(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A copy in another dtype, cast as `from_pretrained(dtype=...)` casts: what must stay float32 does."""
    names = model._keep_in_fp32_modules_strict or ()  # the others matter in float16 alone
    kept = [re.compile(rf"(^|\.){name}($|\.)") for name in names]
    other = copy.deepcopy(model)
    for path, tensor in [*other.named_parameters(), *other.named_buffers()]:
        stays = any(pattern.search(path) for pattern in kept) and dtype != torch.float64
        if tensor.is_floating_point() and not stays:
            tensor.data = tensor.data.to(dtype)
    return other


def cast_values(values: Any, dtype: torch.dtype) -> Any:
    """Inputs of a model or a module, cast; integers stay. Tensors are copied, since some routers write into theirs."""
    if isinstance(values, Mapping):
        return {name: cast_values(value, dtype) for name, value in values.items()}
    if isinstance(values, (tuple, list)):
        return type(values)(cast_values(value, dtype) for value in values)
    if isinstance(values, Tensor):
        return values.to(dtype) if values.is_floating_point() else values.clone()
    return values


def output_of(result: Any) -> Tensor:
    """The output that a test compares: logits, or the last hidden state."""
    for name in ("logits", "last_hidden_state", "feature_maps"):
        value = getattr(result, name, None)
        if value is not None:
            return value if isinstance(value, Tensor) else value[0]
    raise LookupError(f"{type(result).__name__} has none of the known outputs")
