"""What this machine has, and which backend each operation therefore takes. `headgate doctor` prints it."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from headgate.kernels import native
from headgate.kernels.backends import OPS, choose_backend
from headgate.kernels.probe import measure_bandwidth, measure_peak
from headgate.planning.hardware import Device

CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16")
"""The instruction sets that decide how fast a CPU kernel can be, as the Linux kernel names them."""

ACTIVATION_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_EXTRA_OF_PACKAGE = {
    "torch": None,
    "numpy": None,
    "safetensors": None,
    "jaxtyping": None,
    "typer": None,
    "rich": None,
    "tokenizers": "demo",
    "transformers": "transformers",
    "scipy": "observe",
    "pyarrow": "observe",
    "pandas": "observe",
    "triton": "gpu",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageStatus:
    """A package that Headgate uses, its version (None where missing), and the extra that brings it."""

    name: str
    version: str | None
    extra: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuStatus:
    """The processor. `features` maps each of `CPU_FEATURES` to whether it is there; empty where unknown."""

    name: str
    architecture: str
    num_cores: int
    num_threads: int
    features: dict[str, bool]
    torch_capability: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuStatus:
    """One CUDA device."""

    index: int
    name: str
    capability: str
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeStatus:
    """The C++ library: its path, or why it is missing and what to do about it."""

    path: str | None
    abi_version: int
    why_missing: str | None
    remedy: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendRow:
    """The backend that an operation takes on a device for a dtype."""

    op: str
    device: str
    dtype: str
    backend: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineReport:
    """Everything that decides which code runs here."""

    headgate: str
    python: str
    platform: str
    cpu: CpuStatus
    gpus: tuple[GpuStatus, ...]
    packages: tuple[PackageStatus, ...]
    native: NativeStatus
    backends: tuple[BackendRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as values that JSON can hold."""
        return asdict(self)


def describe_machine() -> MachineReport:
    """Describe this machine and the backends that Headgate takes on it.

    Returns:
        The report. Nothing is measured and no device is initialised beyond asking for its name and memory.

    Example:
        >>> describe_machine().backends[0].op
        'route'
    """
    gpus = describe_gpus()
    return MachineReport(
        headgate=_installed_version("headgate") or "unknown",
        python=platform.python_version(),
        platform=platform.platform(),
        cpu=describe_cpu(),
        gpus=gpus,
        packages=tuple(
            PackageStatus(name=name, version=_installed_version(name), extra=extra)
            for name, extra in _EXTRA_OF_PACKAGE.items()
        ),
        native=describe_native(),
        backends=backend_table(["cpu", "cuda"] if gpus else ["cpu"]),
    )


def describe_cpu() -> CpuStatus:
    """Describe the processor, from `/proc/cpuinfo` where there is one."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.is_file() else ""
    name, features = parse_cpuinfo(text)
    return CpuStatus(
        name=name or platform.processor() or "unknown",
        architecture=platform.machine(),
        num_cores=os.cpu_count() or 1,
        num_threads=torch.get_num_threads(),
        features=features,
        torch_capability=torch.backends.cpu.get_cpu_capability(),
    )


def parse_cpuinfo(text: str) -> tuple[str, dict[str, bool]]:
    """Read the name and the features of the first processor of a `/proc/cpuinfo`.

    Args:
        text: the file's content; may be empty.

    Returns:
        The name ("" where it is not stated), and whether each of `CPU_FEATURES` is there (empty where the
        text lists no x86 flags, as on Arm or outside Linux).
    """
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE)
    present = set(flags[1].split()) if flags else set()
    return (name[1].strip() if name else ""), {f: f in present for f in CPU_FEATURES if flags}


def describe_gpus() -> tuple[GpuStatus, ...]:
    """Describe the CUDA devices; empty where PyTorch sees none."""
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return tuple(
        GpuStatus(index=index, name=gpu.name, capability=f"{gpu.major}.{gpu.minor}", memory_bytes=gpu.total_memory)
        for index, gpu in enumerate(properties)
    )


def describe_native() -> NativeStatus:
    """Describe the C++ library: where it is, or why it is missing."""
    found = native.native_library()
    return NativeStatus(
        path=str(found.path) if found.path else None,
        abi_version=native.ABI_VERSION,
        why_missing=found.why_missing,
        remedy=native.HOW_TO_GET if found.why_missing else None,
    )


def backend_table(device_types: Iterable[str]) -> tuple[BackendRow, ...]:
    """List the backend of every operation on each device type, for each dtype that it can meet.

    Args:
        device_types: such as `["cpu", "cuda"]`.

    Returns:
        One row per operation, device type and dtype, as `choose_backend` answers.
    """
    rows = []
    for op in OPS:
        for device_type in device_types:
            for dtype in (torch.int64,) if op == "plan" else ACTIVATION_DTYPES:
                choice = choose_backend(op, device_type=device_type, dtype=dtype)
                rows.append(
                    BackendRow(
                        op=op,
                        device=device_type,
                        dtype=str(dtype).removeprefix("torch."),
                        backend=choice.backend,
                        reason=choice.reason,
                    )
                )
    return tuple(rows)


def _installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def measure_device() -> Device:
    """Measure this machine's CPU as a device to plan for: bandwidth and peaks, by the probes of `kernels.probe`.

    Returns:
        A device of the kind "measured". Its figures are medians of five passes; on a shared machine they drift.

    Raises:
        BackendError: the native library is missing.
    """
    cpu = describe_cpu()
    how = f"headgate.kernels.probe, median of five passes, {cpu.num_threads} threads"
    return Device(
        name="this-machine",
        title=f"{cpu.name}, {cpu.num_threads} threads, measured",
        kind="measured",
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        bandwidth=measure_bandwidth(),
        peak={"fp32": measure_peak(torch.float32), "bf16": measure_peak(torch.bfloat16)},
        bandwidth_source=how,
        peak_source=how,
        date=datetime.date.today().isoformat(),
    )
