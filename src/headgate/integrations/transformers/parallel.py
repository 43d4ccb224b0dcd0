"""Expert parallelism of transformers' models: the experts of every MoE layer spread over the ranks of a device mesh."""

from __future__ import annotations

import types
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from headgate.errors import BackendError, InputError
from headgate.flow import DispatchPlan
from headgate.integrations.transformers.backend import Routed, plan_all, read_weights, run_planned
from headgate.integrations.transformers.gates import WEIGHT_NAMES
from headgate.integrations.transformers.parallel_loading import build_skeleton, load_experts
from headgate.integrations.transformers.parallel_saving import save_expert_parallel
from headgate.integrations.transformers.sites import Kind, Site
from headgate.integrations.transformers.tap import require_sites
from headgate.layout import ExpertLayout
from headgate.parallel.agree import check_agreement
from headgate.parallel.routes import Placement
from headgate.parallel.spread import Spread, keep_spread, set_local, spread_of
from headgate.parallel.style import check_fit, chunk_experts
from headgate.parallel.two_level import as_one_dimension


def expert_parallel(
    model: nn.Module, mesh: DeviceMesh, layout: ExpertLayout | None = None, *, average_gradients: bool = True
) -> Any:
    """Spread the experts of a transformers model over ranks; each keeps its own and drops the others.

    Tokens, outputs, gradients and `average_gradients` are as in `headgate.parallel.ExpertParallel`: the tokens of all
    ranks, in rank order, are one batch to the experts. All else of the model, attention too, sees its own rank's alone.

    Every rank must run as many forward passes as the others, each with tokens or without: a pass waits for all ranks.
    `model.generate` therefore goes on, on a rank that has finished, until all have (transformers' `synced_gpus`); call
    it on all ranks, with the same prompts or others.

    Args:
        model: of transformers, the same on every rank.
        mesh: of one dimension, or of ("node", "ep") for the exchange in two levels.
        layout: where experts live: a row for each MoE layer in model order, or one for all; None = dealt in the order
            of their ids, as `torch.chunk` does.
        average_gradients: whether to divide the experts' gradients by the number of ranks.

    Returns:
        The model. Its experts' parameters are DTensors, [number of its experts, ...] on a rank. On a mesh of one rank
        it stays as it is.

    Raises:
        InputError: the model has no MoE layer, the layout does not fit, or ranks disagree.
        BackendError: experts that don't dispatch through transformers' experts interface, or are quantised.

    Example:
        >>> from torch.distributed import HashStore, destroy_process_group, init_device_mesh, init_process_group
        >>> from transformers import MixtralConfig, MixtralForCausalLM
        >>> sizes = {"hidden_size": 8, "intermediate_size": 4, "num_hidden_layers": 1, "vocab_size": 16}
        >>> sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 4}
        >>> model = MixtralForCausalLM(MixtralConfig(**sizes))
        >>> init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
        >>> model = expert_parallel(model, init_device_mesh("cpu", (1,)))
        >>> model(torch.tensor([[1, 2, 3]])).logits.shape
        torch.Size([1, 3, 16])
        >>> destroy_process_group()
    """
    sites = _require_spreadable(model)
    placements = _place(sites, as_one_dimension(mesh), layout)
    _check_alike(model, sites, placements, as_one_dimension(mesh))
    rank = as_one_dimension(mesh).get_local_rank()
    for site in sites:
        held = torch.tensor(placements[site.path].rank_experts[rank], dtype=torch.int64)
        for name, weight in _weights(site.module).items():
            kept = weight.detach().index_select(0, held.to(weight.device))
            setattr(site.module, name, nn.Parameter(kept, requires_grad=weight.requires_grad))
    return _spread(model, sites, mesh, placements, average_gradients=average_gradients)


def load_expert_parallel(
    path: str,
    mesh: DeviceMesh,
    layout: ExpertLayout | None = None,
    *,
    model_class: Any = None,
    average_gradients: bool = True,
    **options: Any,
) -> Any:
    """Load a checkpoint with this rank's experts alone: the others are neither read nor kept, at no time.

    Args:
        path: a directory, or a Hub id, with weights in safetensors.
        mesh, layout, average_gradients: see `expert_parallel`.
        model_class: of transformers; None = the one that its auto classes have for the configuration.
        options: of `from_pretrained`, such as `dtype`.

    Returns:
        The model, in eval mode, as `expert_parallel` returns it.

    Raises:
        ArtifactError: no checkpoint in safetensors, or not that of the configuration.
        InputError, BackendError: as `expert_parallel`; also a checkpoint whose conversion mixes experts.
    """
    skeleton = build_skeleton(path, model_class)
    sites = _require_spreadable(skeleton)
    ranks = as_one_dimension(mesh)
    placements = _place(sites, ranks, layout)
    _check_alike(skeleton, sites, placements, ranks)
    held = {site.path: placements[site.path].rank_experts[ranks.get_local_rank()] for site in sites}
    model = load_experts(path, held, skeleton=skeleton, sites=sites, **options)
    return _spread(model, _require_spreadable(model), mesh, placements, average_gradients=average_gradients)


def _require_spreadable(model: nn.Module) -> list[Site]:
    sites = require_sites(model)
    for site in sites:
        if site.kind is not Kind.INTERFACE:
            raise BackendError(
                f"{site.path} (={site.class_name}) {site.kind.value}, and only experts that dispatch through "
                "transformers' own interface can be spread over ranks; run this model on one"
            )
        if spread_of(site.module) is not None:
            raise InputError(f"{site.path} (={site.class_name}) is spread over ranks already; load the model anew")
        read_weights(site.module)  # Refuses quantised ones.
    return sites


def _place(sites: list[Site], mesh: DeviceMesh, layout: ExpertLayout | None) -> dict[str, Placement]:
    """The placement of each layer by the path of its experts."""
    if layout is not None and len(layout.device_experts) not in (1, len(sites)):
        raise InputError(
            f"layout (={len(layout.device_experts)} layers) must have one for each MoE layer of the model "
            f"(={len(sites)}), or one for all; plan for this model"
        )
    placements = {}
    for number, site in enumerate(sites):
        num_experts = int(site.module.num_experts)
        dealt = chunk_experts(num_experts, num_ranks=mesh.size())
        chosen = layout or dealt
        check_fit(chosen, num_experts, mesh)
        # One rank has them all, and keeps them in the order of their ids.
        chosen = dealt if mesh.size() == 1 else chosen
        placements[site.path] = Placement.of_layer(chosen, min(number, len(chosen.device_experts) - 1))
    return placements


def _check_alike(model: Any, sites: list[Site], placements: Mapping[str, Placement], mesh: DeviceMesh) -> None:
    facts = {
        "model": type(model).__name__,
        "configuration": model.config.to_json_string(),
        "dtype": [next(iter(_weights(site.module).values())).dtype for site in sites],
        "layout": [placement.rank_experts for placement in placements.values()],
    }
    check_agreement(facts, mesh.get_group())


def _weights(experts: nn.Module) -> dict[str, Any]:
    return {name: weight for name in WEIGHT_NAMES if (weight := getattr(experts, name, None)) is not None}


def _spread(
    model: Any, sites: list[Site], mesh: DeviceMesh, placements: Mapping[str, Placement], *, average_gradients: bool
) -> Any:
    """Let the modules, which hold this rank's experts alone, exchange tokens."""
    if mesh.size() == 1:
        return model
    for site in sites:
        weights, placement = _weights(site.module), placements[site.path]
        spread = Spread.over(mesh, placement, weights=tuple(weights), average_gradients=average_gradients)
        keep_spread(site.module, spread)
        for name, weight in weights.items():
            set_local(site.module, name, weight.detach(), requires_grad=weight.requires_grad)
        site.module.forward = types.MethodType(_forward, site.module)
    if hasattr(model, "generate"):
        model.generate = partial(model.generate, synced_gpus=True)
    model.save_pretrained = types.MethodType(_save_pretrained, model)
    return model


def _save_pretrained(self: Any, save_directory: Any, **options: Any) -> None:
    """In the place of the model's own `save_pretrained`: `save_expert_parallel`."""
    if options:
        raise InputError(
            f"save_pretrained's {', '.join(options)} (given) can't be kept where experts are spread over ranks; leave "
            "them out, or use headgate.parallel.save_checkpoint"
        )
    save_expert_parallel(self, save_directory)


# Message lengths are known only at run time: the exchange is not compiled, all around it is.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _forward(
    self: Any,
    hidden_states: Float[Tensor, "T D"],
    top_k_index: Int[Tensor, "T K"],
    top_k_weights: Float[Tensor, "T K"],
) -> Float[Tensor, "T D"]:
    """In the place of the experts' own forward: send each token to its experts' ranks, and add up what they return."""
    spread = spread_of(self)
    assert spread is not None  # Whoever put this forward there spread the experts.
    names, sharded = zip(*_weights(self).items(), strict=True)
    bound = spread.rule.bind([weight.to_local() for weight in sharded])
    weights = read_weights(self, dict(zip(names, bound, strict=True)))

    def run_local(tokens: Tensor, plan: DispatchPlan, combine_weights: Tensor) -> Tensor:
        return run_planned(self, Routed(x=tokens, plan=plan, combine_weights=combine_weights), weights)

    plan = plan_all(top_k_index, int(self.num_experts))
    y, _ = spread.run(hidden_states.to(weights.down.dtype), plan, top_k_weights, run_local)
    return y.to(hidden_states.dtype)
