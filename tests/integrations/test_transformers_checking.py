"""`headgate check` of a model of transformers: what is wrong is found, and what is right is not."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from typer.testing import CliRunner

from headgate.cli.app import app
from headgate.errors import ArtifactError, InputError
from headgate.integrations.transformers.checking import (
    check_checkpoint,
    check_transformers,
    text_to_check,
)
from headgate.integrations.transformers.recorder import load_model


def mixtral(**changes):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 96}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**sizes, **heads, **changes)).eval()


def tokens(num_sequences=4, length=24):
    return torch.randint(96, (num_sequences, length), generator=torch.Generator().manual_seed(1))


def statuses(model, ids=None):
    return {finding.check: finding.status for finding in check_transformers(model, tokens() if ids is None else ids)}


def router(model):
    return model.model.layers[0].mlp.gate


def test_a_healthy_model_and_nothing_of_it_is_changed():
    model = mixtral().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = statuses(model)
    for check in ("batch invariance", "causality", "NaN guard", "training gap", "NaN", "ties"):
        assert found[check] == "pass", check
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_router_that_sees_other_tokens_is_found():
    """Its weight on the mean of all tokens makes routes depend on the batch and on later tokens."""
    model = mixtral()

    def mix(module, args):
        # Divided by a deviation that does not depend on the batch, so that the mean of all tokens counts.
        return (args[0] + 20 * args[0].mean(dim=tuple(range(args[0].dim() - 1)), keepdim=True),)

    router(model).register_forward_pre_hook(mix)
    found = statuses(model)
    assert (found["batch invariance"], found["causality"]) == ("fail", "fail")


def test_noise_in_training_is_a_gap():
    model = mixtral()

    def jitter(module, args):
        return (args[0] * (1 + torch.randn_like(args[0])) if module.training else args[0],)

    router(model).register_forward_pre_hook(jitter)
    assert statuses(model)["training gap"] == "warn"


def test_a_router_that_hangs_by_its_last_bits_is_noticed():
    model = mixtral()
    with torch.no_grad():
        # Experts that differ by less than bfloat16 resolves.
        router(model).weight.copy_(router(model).weight[:1] * (1 + 1e-4 * torch.arange(8.0))[:, None])
    assert statuses(model)["bfloat16 router"] == "warn"


def test_a_formula_that_is_not_the_models_own_is_not_believed():
    model = mixtral()
    for layer in model.model.layers:
        # The logits are turned round behind the linear layer, which is all that the check repeats.
        layer.mlp.gate.register_forward_hook(lambda module, args, result: (result[0], result[1], 7 - result[2]))
    assert statuses(model)["bfloat16 router"] == "unknown"


def test_a_model_that_a_nan_stops():
    model = mixtral()

    def refuse(module, args):
        if args[0].isnan().any():
            raise RuntimeError("no\nNaN here")

    model.model.layers[0].mlp.experts.register_forward_pre_hook(lambda module, args: refuse(module, args))
    router(model).register_forward_hook(lambda module, args, result: refuse(module, args))
    (finding,) = (one for one in check_transformers(model, tokens()) if one.check == "NaN guard")
    assert (finding.status, finding.sentence) == ("fail", "a NaN in one token stops the model: no NaN here")


def test_a_selection_bias_and_groups():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "moe_intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "q_lora_rank": 16, "kv_lora_rank": 16}
    dims = {"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "vocab_size": 96}
    moe = {"n_routed_experts": 8, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 2, "first_k_dense_replace": 1}
    config = transformers.DeepseekV3Config(**sizes, **heads, **dims, **moe)
    found = statuses(transformers.DeepseekV3ForCausalLM(config))
    assert (found["causality"], found["NaN guard"]) == ("pass", "pass")
    # The formula is known and gives the model's own choice, so the check has an answer.
    assert found["bfloat16 router"] in ("pass", "warn")


def test_a_model_without_experts():
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 96}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, num_attention_heads=2))
    with pytest.raises(InputError, match=r"^model \(=LlamaForCausalLM\) has no MoE layer of transformers"):
        check_transformers(model, tokens())
    with pytest.raises(InputError, match=r"^token_ids.shape \(=\(1, 24\)\) must be at least \(2, 2\)"):
        check_transformers(mixtral(), tokens(1))


class Letters:
    """A tokenizer of letters."""

    def __call__(self, text):
        return {"input_ids": [ord(letter) % 96 for letter in text]}


def test_the_text_that_a_model_is_checked_on():
    model = mixtral()
    ids, said = text_to_check(model, Letters(), [])
    assert (tuple(ids.shape), said.sentence) == ((8, 64), "8 sequences of 64 tokens of Python's documentation")
    ids, said = text_to_check(model, Letters(), ["abc", "defg"])
    assert (ids.tolist(), said.sentence) == ([[1, 2, 3], [4, 5, 6]], "2 sequences of 3 tokens of the text given")
    ids, said = text_to_check(model, None, [])
    assert (tuple(ids.shape), said.status) == ((8, 64), "unknown")
    with pytest.raises(InputError, match=r"^the text has 3 tokens, and two sequences need at least 4; give more text$"):
        text_to_check(model, Letters(), ["abc"])
    with pytest.raises(InputError, match=r"^the model has no tokenizer, so a text can't be given to it; leave the"):
        text_to_check(model, None, ["abc"])


def test_a_directory_without_a_tokenizer(tmp_path):
    mixtral().save_pretrained(tmp_path)
    found = {finding.check: finding for finding in check_checkpoint(str(tmp_path))}
    assert found["text"].sentence.startswith("there is no tokenizer, so the tokens are random")
    # No verdict on the model's load from random tokens.
    assert found["balance"].status == found["dead experts"].status == "unknown"
    assert found["causality"].status == "pass"


def test_a_broken_checkpoint_closes_the_gate(tmp_path):
    model = mixtral()
    with torch.no_grad():
        router(model).weight.fill_(float("nan"))
    model.save_pretrained(tmp_path)
    result = CliRunner().invoke(app, ["check", str(tmp_path), "--json"])
    found = {finding["check"]: finding["status"] for finding in json.loads(result.stdout)}
    assert (result.exit_code, found["NaN"]) == (1, "fail")


def test_mistakes_of_the_command_line(tmp_path):
    result = CliRunner().invoke(app, ["check", str(tmp_path / "none")])
    assert isinstance(result.exception, ArtifactError)
    (tmp_path / "config.json").write_text(json.dumps(mixtral().config.to_dict()))
    with pytest.raises(
        ArtifactError, match=r"can't be loaded: .*; give the directory or Hub id of a whole checkpoint$"
    ):
        check_checkpoint(str(tmp_path))


@pytest.mark.parametrize("name", ["SwitchTransformersConfig", "NllbMoeConfig"])
def test_a_model_with_an_encoder_is_refused_with_what_can_be_done(name, tmp_path):
    getattr(transformers, name)().save_pretrained(tmp_path)
    for load in (check_checkpoint, load_model):
        with pytest.raises(InputError, match="it has an encoder: its layers see two texts; run it yourself within"):
            load(str(tmp_path))
