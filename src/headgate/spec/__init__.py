"""Layer configuration as data: routers, experts, and the presets of known families."""

from headgate.kernels.function import Activation
from headgate.spec.experts import ExpertSpec, SharedSpec
from headgate.spec.presets import FAMILIES, Family, family, preset, preset_names
from headgate.spec.router import Capacity, GroupLimit, RouterSpec

__all__ = [
    "FAMILIES",
    "Activation",
    "Capacity",
    "ExpertSpec",
    "Family",
    "GroupLimit",
    "RouterSpec",
    "SharedSpec",
    "family",
    "preset",
    "preset_names",
]
