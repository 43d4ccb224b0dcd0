"""The trained demo as a checkpoint that `transformers` loads: config.json, model.safetensors, tokenizer.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headgate.demo.checkpoint import load_checkpoint
from headgate.demo.config import DemoConfig, ModelConfig, expert_width, router_spec
from headgate.demo.folder import CHECKPOINTS, CONFIG, TOKENIZER, read_json, write_json
from headgate.demo.model import DemoModel
from headgate.demo.shares import spread_experts
from headgate.demo.tokenizer import END, END_ID
from headgate.demo.train import make_optimizer
from headgate.errors import ArtifactError, SpecError
from headgate.files import explain_os_errors, replace_file
from headgate.parallel.checkpoint import latest_checkpoint
from headgate.parallel.launch import on_first_rank
from headgate.parallel.logical import LogicalExperts
from headgate.parallel.state import model_tensors
from headgate.parallel.weights import write_safetensors

_WEIGHTS = "model.safetensors"


def export_mixtral(run: Path, out: Path) -> Path:
    """Write a demo run's latest checkpoint in Mixtral's layout, with equal logits.

    Called by all ranks, where torchrun started several: each writes its own experts into the one file.

    Args:
        run: the folder of `headgate demo`.
        out: the folder to write, made if need be; `AutoModelForCausalLM.from_pretrained(out)` loads it.

    Returns:
        `out`.

    Raises:
        ArtifactError: the run has no checkpoint, or something can't be read or written.
        SpecError: the run's router or feed-forward isn't Mixtral's.
    """
    if not (run / CONFIG).is_file():
        raise ArtifactError(f"{run} holds no run of the demo ({CONFIG} is missing); train one first: headgate demo")
    config = DemoConfig.from_dict(read_json(run / CONFIG))
    _require_mixtral(config.model)
    checkpoint = latest_checkpoint(run / CHECKPOINTS)
    if checkpoint is None:
        raise ArtifactError(f"{run} has no checkpoint yet; let headgate demo run until it has saved one")
    with explain_os_errors("read", checkpoint):
        tokenizer = (run / TOKENIZER).read_bytes()
    # Reading a checkpoint sets torch's random numbers, which are the caller's.
    with torch.random.fork_rng():
        model = DemoModel(config.model)
        spread_experts(model, config)
        load_checkpoint(checkpoint, model, make_optimizer(model, config.training), config=config.to_dict())
    on_first_rank(lambda: _write_settings(out, config, tokenizer, vocab_size=model.embedding.num_embeddings))
    tensors = mixtral_tensors(model_tensors(model), config.model)
    write_safetensors(out / _WEIGHTS, tensors, metadata={"format": "pt"})
    return out


def _write_settings(out: Path, config: DemoConfig, tokenizer: bytes, *, vocab_size: int) -> None:
    with explain_os_errors("write", out):
        out.mkdir(parents=True, exist_ok=True)
    write_json(out / "config.json", mixtral_config(config, vocab_size=vocab_size))
    write_json(out / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END})
    replace_file(out / TOKENIZER, tokenizer)


def mixtral_config(config: DemoConfig, *, vocab_size: int) -> dict[str, Any]:
    """The demo's sizes under Mixtral's names."""
    model, spec = config.model, router_spec(config.model)
    return {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "dtype": "float32",
        "vocab_size": vocab_size,
        "hidden_size": model.d_model,
        "intermediate_size": expert_width(model),
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_heads,
        "num_local_experts": spec.num_experts,
        "num_experts_per_tok": spec.top_k,
        "hidden_act": "silu",
        "max_position_embeddings": config.training.sequence_length,
        # What torch.nn.RMSNorm adds where no epsilon is given.
        "rms_norm_eps": torch.finfo(torch.float32).eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "sliding_window": None,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": END_ID,
    }


def mixtral_tensors(tensors: Mapping[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """The demo's tensors under the names of Mixtral's files: one matrix for each expert and projection that is here.

    They are views, so that what is read into them is read into the model.
    """
    named = {"model.embed_tokens.weight": tensors["embedding.weight"], "model.norm.weight": tensors["norm.weight"]}
    for layer in range(model.num_layers):
        ours, theirs = f"layers.{layer}", f"model.layers.{layer}"
        query, key, value = tensors[f"{ours}.attention.qkv.weight"].chunk(3)
        named |= {
            f"{theirs}.input_layernorm.weight": tensors[f"{ours}.attention_norm.weight"],
            f"{theirs}.post_attention_layernorm.weight": tensors[f"{ours}.mlp_norm.weight"],
            f"{theirs}.self_attn.q_proj.weight": query,
            f"{theirs}.self_attn.k_proj.weight": key,
            f"{theirs}.self_attn.v_proj.weight": value,
            f"{theirs}.self_attn.o_proj.weight": tensors[f"{ours}.attention.out.weight"],
            f"{theirs}.block_sparse_moe.gate.weight": tensors[f"{ours}.moe.router.weight"],
        }
        experts = (_list_experts(tensors[f"{ours}.moe.experts.{name}"]) for name in ("gate_up_proj", "down_proj"))
        for (expert, gate_up), (_, down) in zip(*experts, strict=True):
            gate, up = gate_up.chunk(2)
            prefix = f"{theirs}.block_sparse_moe.experts.{expert}"
            named |= {f"{prefix}.w1.weight": gate, f"{prefix}.w2.weight": down, f"{prefix}.w3.weight": up}
    return named


def _list_experts(weights: Tensor) -> Iterable[tuple[int, Tensor]]:
    """Each expert that this process holds, with its matrix."""
    if isinstance(weights, LogicalExperts):
        return [(expert, weights.rows[row]) for expert, row in weights.row_of_expert.items()]
    return enumerate(weights)


def _require_mixtral(model: ModelConfig) -> None:
    if model.feed_forward != "moe" or model.router != "mixtral" or model.capacity is not None:
        raise SpecError(
            f"router (={model.router!r}), feed_forward (={model.feed_forward!r}), capacity (={model.capacity}) must be "
            "'mixtral', 'moe' and None: Mixtral's layout holds no other; train with: headgate demo --router mixtral"
        )
