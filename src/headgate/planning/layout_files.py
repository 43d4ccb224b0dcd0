"""Layouts as the files that serving engines read, and back.

| format | file | engine's option |
|---|---|---|
| headgate | JSON | none; it keeps layers, experts and nodes |
| sglang | JSON, `physical_to_logical_map` [decoder layers][P] | `--init-expert-location FILE` |
| vllm | JSON, [MoE layers][P] | `--eplb-config '{"initial_expert_map_path": FILE}'` (pull request 49572, open) |
| tensorrt-llm | YAML, `initial_global_assignments` {decoder layer: [P]} | `moe_config.load_balancer: FILE` |
| ascend | JSON, `layer_list`, `device_list`, `device_expert` | `eplb_config.expert_map_path` of vLLM-Ascend |

References:
    SGLang, python/sglang/srt/eplb/expert_location.py; vLLM, https://github.com/vllm-project/vllm/pull/49572;
    TensorRT-LLM, examples/ep_load_balancer/README.md; vLLM-Ascend, vllm_ascend/eplb/core/eplb_utils.py.
"""

from __future__ import annotations

import json
from typing import Any, Literal, get_args

import numpy as np

from headgate.errors import ArtifactError, InputError
from headgate.layout import ExpertLayout

LayoutFormat = Literal["headgate", "sglang", "vllm", "tensorrt-llm", "ascend"]
FORMATS: tuple[LayoutFormat, ...] = get_args(LayoutFormat)

_NAME = "headgate-layout"
_VERSION = 1


def encode_layout(layout: ExpertLayout, layout_format: LayoutFormat = "headgate") -> str:
    """Write a layout as the text of an engine's file.

    SGLang wants a row for every decoder layer up to the last; those without experts get its own default.

    Raises:
        InputError: a layer twice, or an empty slot in what is for an engine.

    Example:
        >>> layout = ExpertLayout(device_experts=np.array([[[0, 1], [2, 0]]]), num_experts=3, layer_index=(1,))
        >>> print(encode_layout(layout, "vllm"), end="")
        [
         [0, 1, 2, 0]
        ]
        >>> parse_layout(encode_layout(layout, "tensorrt-llm"), num_devices=2).layers
        (1,)
    """
    rows = layout.physical_to_logical.tolist()
    if len(set(layout.layers)) != len(rows):
        raise InputError(f"layers (={list(layout.layers)}) must be different; name each decoder layer once")
    if layout_format == "headgate":
        head = {
            "format": _NAME,
            "version": _VERSION,
            "num_experts": layout.num_experts,
            "num_devices": layout.num_devices,
            "num_nodes": layout.num_nodes,
            "layers": list(layout.layers),
        }
        return _with_rows(head, "physical_to_logical", rows)
    # Of engines none has an empty slot, as this project's own parallelism has.
    layout.require_full()
    if layout_format == "sglang":
        plain = [slot % layout.num_experts for slot in range(len(rows[0]))]
        by_layer = dict(zip(layout.layers, rows, strict=True))
        return _with_rows(
            {}, "physical_to_logical_map", [by_layer.get(n, plain) for n in range(max(layout.layers) + 1)]
        )
    if layout_format == "vllm":
        return "[\n" + ",\n".join(f" {row}" for row in rows) + "\n]\n"
    if layout_format == "tensorrt-llm":
        lines = [f"  {layer}: {row}" for layer, row in sorted(zip(layout.layers, rows, strict=True))]
        head_lines = ["initial_global_assignments:", *lines, f"num_slots: {len(rows[0])}", "layer_updates_per_iter: 0"]
        return "\n".join(head_lines) + "\n"
    return json.dumps(_ascend(layout), indent=1) + "\n"


def _with_rows(head: dict[str, Any], name: str, rows: list[list[int]]) -> str:
    """JSON with one line per layer."""
    entries = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    body = ",\n".join(f"  {row}" for row in rows)
    return "{\n" + ",\n".join([*entries, f" {json.dumps(name)}: [\n{body}\n ]"]) + "\n}\n"


def _ascend(layout: ExpertLayout) -> dict[str, Any]:
    return {
        "moe_layer_count": len(layout.device_experts),
        "layer_list": [
            {
                "layer_id": number,
                "device_count": layout.num_devices,
                "device_list": [
                    {"device_id": device, "device_expert": experts} for device, experts in enumerate(table.tolist())
                ],
            }
            for number, table in enumerate(layout.device_experts)
        ],
    }


def parse_layout(text: str, *, num_devices: int | None = None, num_experts: int | None = None) -> ExpertLayout:
    """Read a layout from the text of any of the files, which is told by what it holds.

    Args:
        text: of the file.
        num_devices: W; needed where the file does not say it (SGLang, vLLM, TensorRT-LLM).
        num_experts: E; None = one more than the largest id.

    Raises:
        ArtifactError: it is none of the files, or not regular.
        InputError: the number of devices is missing or does not fit, or a rule of `ExpertLayout` is broken.
    """
    content = _read_json_or_yaml(text)
    if isinstance(content, dict) and content.get("format") == _NAME:
        return _parse_own(content)
    if isinstance(content, dict) and "layer_list" in content:
        tables = _parse_ascend(content)
        return _make(tables, tuple(range(len(tables))), len(tables[0]), num_experts)
    if isinstance(content, dict) and isinstance(content.get("initial_global_assignments"), dict):
        by_layer = content["initial_global_assignments"]
        if not all(type(layer) is int for layer in by_layer):
            raise ArtifactError("initial_global_assignments does not map decoder layers to lists; write it again")
        return _of_flat(list(by_layer.values()), tuple(by_layer), num_devices, num_experts)
    rows = content.get("physical_to_logical_map") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not rows:
        raise ArtifactError(
            "the file holds no layout of Headgate, SGLang, vLLM, TensorRT-LLM or Ascend; give one that does"
        )
    return _of_flat(rows, tuple(range(len(rows))), num_devices, num_experts)


def _read_json_or_yaml(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        import yaml
    except ImportError as error:
        raise ArtifactError("the file is no JSON, and YAML needs pyyaml; pip install 'headgate[planning]'") from error
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ArtifactError(f"the file is neither JSON nor YAML ({type(error).__name__}); write it again") from error


def _parse_own(content: dict[str, Any]) -> ExpertLayout:
    if content.get("version") != _VERSION:
        raise ArtifactError(
            f"the layout has version {ascii(content.get('version'))[:20]}, this Headgate reads {_VERSION}"
        )
    numbers = [content.get(name) for name in ("num_devices", "num_experts", "num_nodes")]
    layers = content.get("layers")
    if not all(type(number) is int and number > 0 for number in numbers) or not isinstance(layers, list):
        raise ArtifactError("the layout lacks num_devices, num_experts, num_nodes or layers; write it again")
    num_devices, num_experts, num_nodes = numbers
    rows = content.get("physical_to_logical")
    return _of_flat(rows, tuple(layers), num_devices, num_experts, num_nodes or 1)


def _parse_ascend(content: dict[str, Any]) -> list[list[list[int]]]:
    try:
        tables = [[device["device_expert"] for device in layer["device_list"]] for layer in content["layer_list"]]
    except (TypeError, KeyError) as error:
        raise ArtifactError(
            f"layer_list lacks {error}; every layer has a device_list with device_expert lists"
        ) from error
    if not tables or not tables[0]:
        raise ArtifactError("layer_list is empty; write it again")
    return tables


def _of_flat(
    rows: Any, layers: tuple[int, ...], num_devices: int | None, num_experts: int | None, num_nodes: int = 1
) -> ExpertLayout:
    if num_devices is None:
        raise InputError(
            "devices (=None) must be given, since the file does not say how many share its experts; give their number"
        )
    table = _integers(rows)
    if table.ndim != 2 or num_devices < 1 or table.shape[1] % num_devices:
        raise InputError(
            f"devices (={num_devices}) must divide the slots of each layer (={table.shape[-1]}); give their number"
        )
    return _make(table.reshape(len(table), num_devices, -1), layers, num_devices, num_experts, num_nodes)


def _make(
    tables: Any, layers: tuple[int, ...], num_devices: int, num_experts: int | None, num_nodes: int = 1
) -> ExpertLayout:
    slots = _integers(tables)
    if slots.ndim != 3 or slots.shape[1] != num_devices:
        raise ArtifactError(f"the layout has the shape {slots.shape}, not layers, devices, slots; write it again")
    return ExpertLayout(
        device_experts=slots,
        num_experts=int(slots.max(initial=-1)) + 1 if num_experts is None else num_experts,
        layer_index=layers,
        num_nodes=num_nodes,
    )


def _integers(values: Any) -> Any:
    try:
        array = np.array(values)
    except (ValueError, OverflowError, RecursionError) as error:
        raise ArtifactError("the layout's lists are of different lengths; write it again") from error
    if array.dtype.kind not in "iu" or array.size == 0:
        raise ArtifactError("the layout's lists do not hold whole numbers; write it again")
    return array.astype(np.int64)
