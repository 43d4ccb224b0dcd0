import json
from types import SimpleNamespace

import pytest
import torch

from headgate.kernels import native
from headgate.kernels.backends import OPS, choose_backend
from headgate.kernels.native import NativeLibrary
from headgate.planning import machine

CPUINFO = """\
processor\t: 0
model name\t: Example CPU @ 3.00GHz
flags\t\t: fpu sse4_2 avx2 avx512f

processor\t: 1
model name\t: Another CPU
flags\t\t: fpu amx_tile
"""


def test_cpuinfo_of_the_first_processor():
    name, features = machine.parse_cpuinfo(CPUINFO)
    assert name == "Example CPU @ 3.00GHz"
    assert features == {
        "avx2": True,
        "avx512f": True,
        "avx512_bf16": False,
        "avx512_vnni": False,
        "amx_tile": False,
        "amx_bf16": False,
    }


@pytest.mark.parametrize("text", ["", "processor\t: 0\nFeatures\t: fp asimd\n"])
def test_cpuinfo_without_flags_claims_nothing(text):
    assert machine.parse_cpuinfo(text) == ("", {})


def test_the_report_is_json_and_about_this_process():
    report = machine.describe_machine()
    assert json.loads(json.dumps(report.to_dict()))["python"] == report.python
    assert report.cpu.num_threads == torch.get_num_threads()
    versions = {package.name: package.version for package in report.packages}
    assert versions["torch"] == torch.__version__


def test_a_missing_package_has_no_version(monkeypatch):
    monkeypatch.setattr(machine, "_EXTRA_OF_PACKAGE", {"headgate-no-such-package": "observe"})
    assert machine.describe_machine().packages == (
        machine.PackageStatus(name="headgate-no-such-package", version=None, extra="observe"),
    )


def test_without_the_library_there_is_a_remedy(monkeypatch):
    monkeypatch.setattr(native, "native_library", lambda: NativeLibrary(why_missing="a test hides it"))
    found = machine.describe_native()
    assert (found.path, found.why_missing, found.remedy) == (None, "a test hides it", native.HOW_TO_GET)


def test_gpus_are_listed_by_index(monkeypatch):
    names = ["One", "Two"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda index: SimpleNamespace(name=names[index], major=9, minor=index, total_memory=2**30),
    )
    assert machine.describe_gpus() == (
        machine.GpuStatus(index=0, name="One", capability="9.0", memory_bytes=2**30),
        machine.GpuStatus(index=1, name="Two", capability="9.1", memory_bytes=2**30),
    )
    assert {row.device for row in machine.describe_machine().backends} == {"cpu", "cuda"}


def test_the_table_says_what_the_operations_are_told():
    rows = machine.backend_table(["cpu", "cuda"])
    assert {row.op for row in rows} == set(OPS)
    for row in rows:
        choice = choose_backend(row.op, device_type=row.device, dtype=getattr(torch, row.dtype))
        assert (row.backend, row.reason) == (choice.backend, choice.reason)
