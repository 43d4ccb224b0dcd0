"""Fixtures for every test, and the run-time check of shapes and types in headgate's signatures."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# As the command line does, and for the same reason; nothing has loaded torch yet.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Without NVIDIA's driver, Triton's kernels run in its interpreter. Triton reads this when it is first imported, by
# whatever imports it. Nothing else here runs Triton's code on a CPU.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "headgate"

# kernels/ declares operators to torch, and cli/ declares commands to typer: both read the plain signatures. spec/
# holds no tensors and refuses wrong values itself, which its tests must see.
UNCHECKED = {"__init__", "__main__", "__pycache__", "kernels", "cli", "py", "spec"}
CHECKED = [f"headgate.{path.stem}" for path in sorted(PACKAGE.iterdir()) if path.stem not in UNCHECKED]
HOOK = install_import_hook(CHECKED, "runtime_types.check")


def pytest_configure(config: pytest.Config) -> None:
    """Let the native library be missing, and layers be built that can't learn but only need to compute.

    Said in pyproject.toml, the first would import headgate before coverage.
    """
    config.addinivalue_line("filterwarnings", "ignore::headgate.errors.NativeMissingWarning")
    config.addinivalue_line("filterwarnings", r"ignore:top_k \(=1\) with normalise:UserWarning")


def forget_compiled_modules() -> None:
    """Let torch.compile look modules up again: it keeps those that it met by name, and names them in their users."""
    compiler = sys.modules.get("torch._dynamo.symbolic_convert")
    if compiler is None:
        return
    compiler._import_module.cache_clear()
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", {})
        for name in [name for name in names if name.startswith("__import_headgate_dot_")]:
            del names[name]


@pytest.fixture
def uninstrumented() -> Iterator[Callable[[str], object]]:
    """Import headgate's modules afresh without the run-time checks, which torch.compile cannot trace.

    Yields an import function. The classes of these modules are not those of the modules at the top of a test
    file: take everything that a test needs from here. kernels/ is never instrumented and stays as it is.
    """

    def is_replaced(name: str) -> bool:
        return name.split(".")[0] == "headgate" and not name.startswith("headgate.kernels")

    replaced = {name: module for name, module in sys.modules.items() if is_replaced(name)}
    for name in replaced:
        del sys.modules[name]
    HOOK.uninstall()
    forget_compiled_modules()
    try:
        yield importlib.import_module
    finally:
        for name in [name for name in sys.modules if is_replaced(name)]:
            del sys.modules[name]
        sys.modules.update(replaced)
        sys.meta_path.insert(0, HOOK.hook)
        forget_compiled_modules()


@pytest.fixture
def run_fresh(tmp_path: Path) -> Callable[..., str]:
    """Run Python source in a fresh interpreter, outside the checkout; return what it printed."""

    def run(source: str, **environment: str) -> str:
        result = subprocess.run(
            [sys.executable, "-c", source],
            env={**os.environ, **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run
