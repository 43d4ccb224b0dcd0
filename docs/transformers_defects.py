"""What transformers does otherwise than it seems to, shown by its own code: `python docs/transformers_defects.py`.

Each function builds something small, and returns what was seen and whether that confirms the title under which
`main` prints it. Nothing of Headgate is imported.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from transformers.models.axk2.modeling_axk2 import AXK2TopkRouter
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Model
from transformers.models.doge.modeling_doge import DogeCDMoE
from transformers.models.longcat_flash.modeling_longcat_flash import LongcatFlashMoE
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func
from transformers.models.nllb_moe.modeling_nllb_moe import NllbMoeSparseMLP
from transformers.models.phimoe.modeling_phimoe import PhimoeSparseMoeBlock

Finding = tuple[bool, str]
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}


def draw(module: nn.Module) -> nn.Module:
    """Random weights, for a block that is built without its model has none."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return module.eval()


def nllb_runs_two_experts() -> Finding:
    """It takes the router's 0/1 mask for expert ids: expert 0 runs on its zeros, expert 1 on its ones."""
    config = transformers.NllbMoeConfig(d_model=16, num_experts=6, decoder_layers=1, encoder_layers=1)
    block = draw(NllbMoeSparseMLP(config, ffn_dim=8))
    ran: set[str] = set()
    for name, expert in block.experts.named_children():
        expert.register_forward_hook(lambda *call, name=name: ran.add(name))
    x = torch.randn(1, 50, 16)
    chosen, _, _ = block.router(x)
    block(x)
    num_chosen = int(chosen.flatten(0, -2).any(0).sum())
    return len(ran) == 2 < num_chosen, f"{num_chosen} of 6 experts are chosen first by a token; {sorted(ran)} ran"


def longcat_never_adds_its_router_bias() -> Finding:
    """`F.linear` is called without it."""
    config = transformers.LongcatFlashConfig(hidden_size=16, expert_ffn_hidden_size=8, n_routed_experts=6, moe_topk=2)
    config.router_bias = True
    block = draw(LongcatFlashMoE(config))
    x = torch.randn(1, 9, 16)
    before = block(x)
    nn.init.normal_(block.router.classifier.bias, std=100.0)
    return torch.equal(
        block(x), before
    ), "another bias, drawn a hundred times as large as the logits, leaves every output as it was"


def longcat_fails_with_one_choice() -> Finding:
    """Its experts squeeze the axis of choices."""
    config = transformers.LongcatFlashConfig(hidden_size=16, expert_ffn_hidden_size=8, n_routed_experts=6, moe_topk=1)
    try:
        draw(LongcatFlashMoE(config))(torch.randn(1, 9, 16))
    except ValueError as error:
        return True, f"moe_topk=1: {error}"
    return False, "moe_topk=1 runs"


def the_pooled_loss_cancels_opposite_collapses() -> Finding:
    """Layers are concatenated before choices are multiplied by probabilities."""
    one, other = torch.tensor([[9.0, -9.0]]).repeat(4, 1), torch.tensor([[-9.0, 9.0]]).repeat(4, 1)
    alone = float(load_balancing_loss_func((one,), num_experts=2, top_k=1))
    both = float(load_balancing_loss_func((one, other), num_experts=2, top_k=1))
    return both < 1.01 < 1.99 < alone, f"one collapsed layer {alone:.2f}, two that collapsed apart {both:.2f}"


def some_coefficients_are_never_read() -> Finding:
    """The configuration has a coefficient for the auxiliary loss, and no line of the modeling file has its name."""
    folder = Path(transformers.__file__).parent / "models"
    unread = []
    for path in sorted(folder.glob("*/modeling_*.py")):
        configurations = "".join(one.read_text(encoding="utf-8") for one in path.parent.glob("configuration_*.py"))
        if "    router_aux_loss_coef:" in configurations and "aux_loss_coef" not in path.read_text(encoding="utf-8"):
            unread.append(path.parent.name)
    return bool(unread), f"router_aux_loss_coef is read nowhere in {' and '.join(unread)}"


def mixtral_reads_its_coefficient_only_where_logits_are_asked_for() -> Finding:
    """The loss is computed where `output_router_logits=True`, which is not the default; most families follow it."""
    ids = torch.arange(8)[None]

    def loss(coefficient: float, **options: bool) -> float:
        config = transformers.MixtralConfig(
            **SIZES, intermediate_size=8, vocab_size=32, router_aux_loss_coef=coefficient, **options
        )
        return draw(transformers.MixtralForCausalLM(config))(ids, labels=ids).loss.item()

    by_default = loss(0.0) == loss(100.0)
    asked_for = loss(0.0, output_router_logits=True) != loss(100.0, output_router_logits=True)
    return (
        by_default and asked_for,
        "coefficients 0 and 100 give one loss by default, and two with output_router_logits",
    )


def deepseek_v2_ignores_norm_topk_prob() -> Finding:
    """Its file does not contain the name."""
    sizes = {**SIZES, "q_lora_rank": None, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}
    sizes |= {"v_head_dim": 8, "moe_intermediate_size": 8, "n_routed_experts": 6, "num_experts_per_tok": 2}
    outputs = []
    for value in (True, False):
        config = transformers.DeepseekV2Config(
            **sizes, vocab_size=32, first_k_dense_replace=0, n_shared_experts=1, norm_topk_prob=value
        )
        outputs.append(draw(DeepseekV2Model(config))(torch.arange(8)[None]).last_hidden_state)
    return torch.equal(*outputs), "norm_topk_prob=True and =False give the same output, bit for bit"


def axk2_chooses_from_masked_groups() -> Finding:
    """A masked group's scores become 0 instead of -inf, which is more than a score that its bias makes negative."""
    config = transformers.AXK2Config(
        hidden_size=16, n_routed_experts=8, num_experts_per_tok=2, n_group=2, topk_group=1, norm_topk_prob=True
    )
    router = draw(AXK2TopkRouter(config))
    router.e_score_correction_bias[:4], router.e_score_correction_bias[4:] = -2.0, -3.0
    _, _, chosen = router(torch.randn(9, 16))
    return bool(
        (chosen >= 4).all()
    ), "the first of two groups is the better one for every token, and none is sent there"


def doge_looks_ahead() -> Finding:
    """Its router's numbers are viewed as two lists of keys in the order of memory, which mixes tokens."""
    block = draw(
        DogeCDMoE(transformers.DogeConfig(**SIZES, intermediate_size=16, num_experts=16, num_experts_per_tok=2))
    )
    x = torch.randn(1, 6, 16)
    later = torch.cat([x[:, :-1], torch.randn(1, 1, 16)], dim=1)
    differ = (first(block(x)) != first(block(later)))[0, :-1].any(1)
    return bool(differ.any()), f"another last token changes the output of {int(differ.sum())} of the 5 before it"


def phimoe_always_makes_two_choices() -> Finding:
    """Its router is written for two."""
    config = transformers.PhimoeConfig(**SIZES, intermediate_size=8, num_local_experts=6, num_experts_per_tok=1)
    config._experts_implementation = "eager"
    block = draw(PhimoeSparseMoeBlock(config))
    seen: list[Tensor] = []
    block.experts.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    block(torch.randn(1, 9, 16))
    return seen[0].shape[1] == 2, f"num_experts_per_tok=1: {seen[0].shape[1]} choices a token"


def jitter_changes_the_blocks_input() -> Finding:
    """In training, the noise for the router is multiplied into the tensor that the experts get too."""
    config = transformers.MixtralConfig(**SIZES, intermediate_size=8, num_local_experts=6, router_jitter_noise=0.1)
    config._experts_implementation = "eager"
    block = draw(MixtralSparseMoeBlock(config)).train()
    x = torch.randn(1, 9, 16)
    before = x.clone()
    with torch.no_grad():
        block(x)
    return not torch.equal(x, before), "Mixtral with router_jitter_noise: the tensor that it was called with differs"


def zaya_forgets_a_bias_on_loading() -> Finding:
    """Its initialisation assigns the last selection bias, that of skipping the experts, after the file's was read."""
    sizes = {**SIZES, "moe_intermediate_size": 8, "head_dim": 8, "router_hidden_size": 8, "vocab_size": 32}
    model = transformers.ZayaModel(transformers.ZayaConfig(**sizes, num_experts=4))
    name = "layers.0.mlp.gate.balancing_biases"
    model.get_buffer(name).fill_(0.5)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = transformers.ZayaModel.from_pretrained(folder).get_buffer(name).tolist()
    return loaded == [0.5, 0.5, 0.5, 0.5, -1.0], f"five biases of 0.5 were saved, and {loaded} loaded"


def first(result: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The output of a block that may return its logits beside it."""
    return result[0] if isinstance(result, tuple) else result


DEFECTS: dict[str, Callable[[], Finding]] = {
    "NLLB-MoE runs two of its experts, whatever its router decides": nllb_runs_two_experts,
    "LongCat-Flash never adds its router bias": longcat_never_adds_its_router_bias,
    "LongCat-Flash fails with one choice a token": longcat_fails_with_one_choice,
    "The auxiliary loss calls opposite collapses balanced": the_pooled_loss_cancels_opposite_collapses,
    "Two families have a coefficient of the auxiliary loss that nothing reads": some_coefficients_are_never_read,
    "Mixtral balances nothing by default": mixtral_reads_its_coefficient_only_where_logits_are_asked_for,
    "DeepSeek-V2 ignores norm_topk_prob": deepseek_v2_ignores_norm_topk_prob,
    "A.X-K2 chooses experts of groups that it has masked": axk2_chooses_from_masked_groups,
    "Doge's choices depend on later tokens": doge_looks_ahead,
    "PhiMoE makes two choices whatever it is told": phimoe_always_makes_two_choices,
    "Jitter changes the input of its block": jitter_changes_the_blocks_input,
    "Zaya's last selection bias is lost on loading": zaya_forgets_a_bias_on_loading,
}


def main() -> None:
    """Print each title, what was seen, and the verdict."""
    print(f"transformers {transformers.__version__}")
    for title, check in DEFECTS.items():
        is_confirmed, seen = check()
        print(f"\n{'confirmed' if is_confirmed else 'refuted'}: {title}")
        print(f"    {inspect.getdoc(check)}\n    Seen: {seen}.")


if __name__ == "__main__":
    main()
