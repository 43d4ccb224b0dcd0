"""Installing where no C++ compiler works: the package still builds, works, and says once what is missing."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WHAT_A_BUILD_READS = ("pyproject.toml", "README.md", "LICENSE", "CMakeLists.txt", "csrc", "src")
BUILD = "import sys, scikit_build_core.build as build; print(build.build_wheel(sys.argv[1]))"
USE = """
import warnings

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch

    import headgate
    from headgate.errors import NativeMissingWarning
    from headgate.kernels import native

    layer = headgate.MoE(8, 16, num_experts=4, top_k=2)
    for _ in range(3):
        layer(torch.randn(5, 8)).sum().backward()
        with torch.no_grad():
            assert layer.eval()(torch.randn(5, 8)).isfinite().all()
assert native.library() is None
print(headgate.__file__)
for warning in caught:
    if issubclass(warning.category, NativeMissingWarning):
        print(warning.message)
"""


def build_wheel(folder: Path, **environment: str) -> tuple[Path, str]:
    """The wheel that this source tree builds, and what the build said."""
    source = folder / "source"
    source.mkdir()
    for name in WHAT_A_BUILD_READS:
        path = ROOT / name
        shutil.copytree(path, source / name) if path.is_dir() else shutil.copy(path, source / name)
    command = [sys.executable, "-c", BUILD, str(folder)]
    variables = {**os.environ, **environment}
    result = subprocess.run(
        command, cwd=source, env=variables, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return next(folder.glob("*.whl")), result.stdout + result.stderr


@pytest.mark.skipif(importlib.util.find_spec("scikit_build_core") is None, reason="scikit-build-core is not installed")
@pytest.mark.skipif(shutil.which("cmake") is None, reason="there is no cmake on PATH to fail")
def test_without_a_compiler_it_installs_and_says_once_what_is_missing(tmp_path):
    wheel, said = build_wheel(tmp_path, CC=str(tmp_path / "no-cc"), CXX=str(tmp_path / "no-c++"))
    assert "no-c++" in said  # CMake was asked, and failed
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    assert "headgate/kernels/native.py" in names
    assert not [name for name in names if "libheadgate" in name]

    # Without `site`, the checkout's own editable install stays out of the way.
    path = os.pathsep.join([str(tmp_path / "installed"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    command = [sys.executable, "-S", "-c", USE]
    environment = {**os.environ, "PYTHONPATH": path}
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    file, *warnings = result.stdout.splitlines()
    assert Path(file).is_relative_to(tmp_path / "installed")
    assert len(warnings) == 1, warnings
    folder = tmp_path / "installed" / "headgate" / "kernels"
    assert f"was not built (searched {folder})" in warnings[0]
    assert "install a C++17 compiler, then run `pip install --force-reinstall" in warnings[0]
