"""What each weight of a model of transformers is there for, from its place in the module tree."""

from __future__ import annotations

import re
from collections import Counter

from torch import nn

from headgate.integrations.transformers.recorded_shape import count_experts, count_zero_experts
from headgate.integrations.transformers.sites import Site
from headgate.planning.parameters import Role, WeightGroup

# Names of modules, matched against one part of a path; towers and MTP layers outside the decoder's own layers.
_AUDIO = re.compile(r"audio|speech|whisper|talker|code2wav|token2wav|conformer|sound", re.IGNORECASE)
_VISION = re.compile(r"vision|visual|image|vit$|video|sam_model|qwen2_model|multi_?modal|mm_|aligner", re.IGNORECASE)
_MTP = re.compile(r"^(mtp|nextn)|mtp_(layers|block)")
_SHARED = re.compile(r"^shared(?!_head)|_shared_expert|residual_mlp")
_ROUTER = re.compile(r"^(gate|router|router_gate|wg|expert_bias|e_score_correction_bias)$|moe_statics")
_ATTENTION = re.compile(r"(attn|attention|mamba|mixer|conv|ssm)$", re.IGNORECASE)
_ATTENTION_CLASS = re.compile(r"Attention|Mamba|DeltaNet|ShortConv|Mixer|RecurrentBlock|LinearAttn")
_MLP = re.compile(r"^(mlp|mlps|ffn|ff|feed_forward|feedforward|fc1|fc2|dense_h_to_4h|dense_4h_to_h|DenseReluDense)$")
_MLP_CLASS = re.compile(r"MLP|FeedForward|DenseReluDense|DenseActDense")
_HEAD = re.compile(r"^(lm_head|embed_out|output_projection)$")


class Classifier:
    """Sorts the parameters of one model into roles."""

    def __init__(self, model: nn.Module, sites: list[Site], num_experts: dict[str, int]) -> None:
        """Remember where experts and embeddings are.

        Args:
            model: on any device.
            sites: its modules that run experts.
            num_experts: with weights, by the path of a site.
        """
        self.model, self.sites, self.num_experts = model, sites, num_experts
        self.modules = dict(model.named_modules())
        self.parents = {site.path.rpartition(".")[0]: site for site in sites}
        self.head = weight_of(model, "get_output_embeddings")

    def site_of(self, path: str) -> Site | None:
        """The site that a parameter lies in."""
        return next((site for site in self.sites if path.startswith(f"{site.path}.")), None)

    def role_of(self, path: str, parameter: nn.Parameter) -> Role:
        """Say what a parameter is there for."""
        parts = path.split(".")
        outer = parts[: next((i for i, part in enumerate(parts) if part.isdigit()), len(parts))]
        for pattern, role in ((_MTP, Role.MTP), (_AUDIO, Role.AUDIO), (_VISION, Role.VISION)):
            if any(pattern.search(part) for part in outer):
                return role
        site = self.site_of(path)
        if site is not None:
            return self._role_in_site(site, path, parameter)
        if isinstance(self.modules[".".join(parts[:-1])], nn.Embedding):
            # Inside attention it is a bias by distance, as T5's.
            return Role.ATTENTION if any(_ATTENTION.search(part) for part in parts) else Role.EMBEDDING
        if self._is_router(parts):
            return Role.ROUTER
        if any(_SHARED.search(part) for part in parts if part != parts[0]):
            return Role.SHARED_EXPERTS
        return self._role_outside(parts, parameter)

    def _role_in_site(self, site: Site, path: str, parameter: nn.Parameter) -> Role:
        inner = path.removeprefix(f"{site.path}.").split(".")
        if any(_SHARED.search(part) for part in inner):
            return Role.SHARED_EXPERTS
        if any(_ROUTER.search(part) for part in inner):
            return Role.ROUTER
        if is_expert_weight(site, inner, parameter, self.num_experts[site.path]):
            return Role.ROUTED_EXPERTS
        # A weight of the block that every token meets: Doge's MLP beside its retrieved experts, a common bias or norm.
        return Role.SHARED_EXPERTS if parameter.dim() >= 2 else Role.OTHER

    def _is_router(self, parts: list[str]) -> bool:
        """Whether a path goes through a sibling of the experts that is named as a router."""
        return any(
            ".".join(parts[:i]) in self.parents and _ROUTER.search(parts[i]) is not None for i in range(len(parts))
        )

    def _role_outside(self, parts: list[str], parameter: nn.Parameter) -> Role:
        if parameter is self.head or any(_HEAD.search(part) for part in parts):
            return Role.HEAD
        names = [(parts[i], type(self.modules[".".join(parts[: i + 1])]).__name__) for i in range(len(parts) - 1)]
        if any(_ATTENTION.search(name) or _is_attention(kind) for name, kind in names if "norm" not in name):
            # NemotronH calls every block a mixer: there the class alone says which it is.
            is_mlp = any(_MLP_CLASS.search(kind) for _, kind in names)
            return Role.DENSE_MLP if is_mlp else Role.ATTENTION
        if any(_MLP.search(name) or _MLP_CLASS.search(kind) for name, kind in names):
            return Role.OTHER if parameter.dim() < 2 and "norm" in parts[-2] else Role.DENSE_MLP
        return Role.OTHER

    def groups(self) -> tuple[WeightGroup, ...]:
        """All weights, those of one role and shape together."""
        found: Counter[tuple[Role, tuple[int, ...], bool]] = Counter()
        for path, parameter in self.model.named_parameters():
            role = self.role_of(path, parameter)
            is_matrix = parameter.dim() >= 2 and not path.endswith(("bias", "bias_A", "A_log"))
            site = self.site_of(path) if role is Role.ROUTED_EXPERTS else None
            shape = tuple(parameter.shape)
            if site is not None:
                shape = used_shape(parameter, site, self.num_experts[site.path])
            found[role, shape, is_matrix] += 1
        return tuple(
            WeightGroup(role=role, shape=shape, count=count, is_matrix=is_matrix)
            for (role, shape, is_matrix), count in found.items()
        )


def is_expert_weight(site: Site, inner: list[str], parameter: nn.Parameter, num_experts: int) -> bool:
    """Whether a parameter below a site belongs to its experts, one by one.

    Args:
        site: the place that runs experts.
        inner: the parameter's path below it.
        parameter: itself.
        num_experts: that have weights.

    Returns:
        True for what lies in an expert's own module, and for stacks of E along the first axis.
    """
    if any(re.fullmatch(r"(expert_)?\d+", part) for part in inner):
        return True
    if isinstance(site.module.get_submodule(".".join(inner[:-1])), nn.Linear):
        return False  # one matrix that every token meets, as Doge's MLP beside the experts that it retrieves
    return parameter.dim() >= 2 and (parameter.shape[0] % num_experts == 0 or parameter.shape[0] == num_choices(site))


def num_choices(site: Site) -> int:
    """Choices of a router: experts with weights, and those without."""
    return count_experts(site)


def used_shape(parameter: nn.Parameter, site: Site, num_experts: int) -> tuple[int, ...]:
    """A stack's shape without the rows that transformers allocates for zero-compute experts and never reads."""
    shape = tuple(parameter.shape)
    is_padded = count_zero_experts(site) > 0 and shape[0] == num_choices(site)
    return (num_experts, *shape[1:]) if is_padded else shape


def _is_attention(class_name: str) -> bool:
    return bool(_ATTENTION_CLASS.search(class_name)) and not class_name.endswith(("Layer", "Block", "Model"))


def weight_of(model: nn.Module, getter: str) -> nn.Parameter | None:
    """The weight that an accessor of transformers returns, or None where the model has no such part."""
    try:
        return getattr(getattr(model, getter)(), "weight", None)
    except (AttributeError, NotImplementedError):
        return None
