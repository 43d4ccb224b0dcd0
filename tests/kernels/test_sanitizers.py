"""The C ABI with random problems, against plain loops, under AddressSanitizer, UndefinedBehaviorSanitizer and
ThreadSanitizer: see csrc/tests/fuzz.cmake."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SANITIZERS = {"address": "-fsanitize=address,undefined", "thread": "-fsanitize=thread"}
NUM_ROUNDS = "100"
SEED = "0"
# The first report ends the program.
ENVIRONMENT = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "", "UBSAN_OPTIONS": ""}


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )


def skip_without_tools(flag: str, folder: Path) -> None:
    """Skip where there is no CMake, no compiler, or none whose programs run with the sanitizer."""
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool} on PATH")
    (folder / "empty.cpp").write_text("int main() { return 0; }\n")
    for command in (["c++", flag, "empty.cpp", "-o", "empty", "-pthread"], ["./empty"]):
        result = run(command, folder)
        if result.returncode != 0:
            pytest.skip(f"{' '.join(command)} fails: {result.stderr.strip()}")


def build(sanitizer: str, folder: Path) -> Path:
    options = [f"-DHEADGATE_SANITIZE={sanitizer}", "-DCMAKE_CXX_COMPILER=c++", "-DCMAKE_BUILD_TYPE=Debug"]
    commands = [
        ["cmake", "-S", str(ROOT), "-B", str(folder), *options],
        ["cmake", "--build", str(folder), "--target", "headgate_fuzz", "--parallel", "2"],
    ]
    for command in commands:
        result = run(command, folder)
        assert result.returncode == 0, result.stdout + result.stderr
    return folder / "headgate_fuzz"


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_the_kernels_are_clean(sanitizer, tmp_path):
    skip_without_tools(SANITIZERS[sanitizer], tmp_path)
    program = str(build(sanitizer, tmp_path))
    result = run([program, "all", NUM_ROUNDS, SEED], tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    names = ("experts", "gradients", "route", "layer", "plan", "probes")
    assert result.stdout.splitlines() == [f"{name}: {NUM_ROUNDS} rounds passed" for name in names]

    # And it would have shown: a mistake is reported, with the round that made it.
    mistake, report = {"address": ("overrun", "heap-buffer-overflow"), "thread": ("race", "data race")}[sanitizer]
    result = run([program, mistake, "1", "7"], tmp_path)
    assert result.returncode != 0
    assert report in result.stderr
    assert f"to repeat: headgate_fuzz {mistake} 1 7" in result.stderr


def test_a_check_that_there_is_not_is_refused_with_the_sanitizer_that_there_is_not(tmp_path):
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake on PATH")
    result = run(["cmake", "-S", str(ROOT), "-B", str(tmp_path), "-DHEADGATE_SANITIZE=memory"], tmp_path)
    assert result.returncode != 0
    assert "HEADGATE_SANITIZE (=memory) must be address or thread" in " ".join(result.stderr.split())
