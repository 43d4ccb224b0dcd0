"""A module imports only from lower layers: the table of the design, read from the imports (AST)."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "headgate"
MAX_LINES = 400

# Each part of the package and its layer. Parts of a layer do not import each other; files of a folder may.
LAYER_OF_PART = {
    "errors": 0,
    "flow": 0,
    "wording": 0,
    "files": 1,
    "layout": 1,
    "kernels": 1,
    "spec": 2,
    "scores": 2,
    "selection": 2,
    "sparsemixer": 2,
    "dispatch": 2,
    "experts": 2,
    "balance": 2,
    "nn": 3,
    "parallel": 4,
    "observe": 5,
    "planning": 5,
    "integrations": 6,
    "demo": 6,
    "cli": 7,
    "__main__": 8,
}


def imported_modules(source: str, module: str) -> set[str]:
    """The absolute names of headgate's modules that `source` imports, wherever in the file it does so."""
    package = module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            # `from headgate import kernels` names a module last; `from headgate.x import y` names it first.
            found |= {f"{base}.{alias.name}" for alias in node.names} if base == "headgate" else {base}
    return {name for name in found if name == "headgate" or name.startswith("headgate.")}


def part_of(module: str) -> str:
    """The part of the package that a module belongs to: the second name, or "" for the package itself."""
    return module.split(".")[1] if "." in module else ""


def violations(source: str, module: str) -> list[str]:
    """One sentence for each import of `source` that the layers forbid."""
    part = part_of(module)
    broken = []
    for name in sorted(imported_modules(source, module)):
        other = part_of(name)
        if other not in LAYER_OF_PART:
            broken.append(f"{module} imports {name}, which is not a part with a layer")
        elif other != part and LAYER_OF_PART[other] >= LAYER_OF_PART[part]:
            broken.append(f"{module} (layer {LAYER_OF_PART[part]}) imports {name} (layer {LAYER_OF_PART[other]})")
    return broken


def module_name(path: Path) -> str:
    names = ["headgate", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(names[:-1] if names[-1] == "__init__" and len(names) > 2 else names)


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_imports_only_from_lower_layers(path):
    name = module_name(path)
    assert part_of(name) in LAYER_OF_PART, f"{name} has no layer; add it to the table, and to the design"
    # An __init__.py is its folder's module: relative imports start in the folder itself.
    source_module = f"{name}.__init__" if path.name == "__init__.py" else name
    assert violations(path.read_text(encoding="utf-8"), source_module) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_file_is_short_enough_to_read(path):
    num_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert num_lines <= MAX_LINES, f"{path} has {num_lines} lines; split it"


def test_there_are_files_to_check():
    assert len(FILES) > 10


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("headgate.flow", "from headgate.errors import InputError"),
        ("headgate.errors", "import headgate.flow"),
        ("headgate.scores", "from headgate.selection import select"),
        ("headgate.scores", "import headgate.selection as selection"),
        ("headgate.spec", "from headgate import balance"),
        ("headgate.kernels.plan", "from headgate.nn import MoE"),
        ("headgate.kernels.plan", "from ..scores import softmax"),
        ("headgate.kernels.plan", "from .. import scores"),
        ("headgate.nn.__init__", "from ..observe import trace"),
        ("headgate.nn.moe", "def late():\n    from headgate.observe.trace import Trace"),
        ("headgate.observe.trace", "from headgate.planning.sizing import size"),
        ("headgate.cli.app", "import headgate"),
        ("headgate.cli.app", "from headgate import MoE"),
        ("headgate.cli.app", "from headgate.elsewhere import x"),
    ],
)
def test_the_check_finds_a_violation(module, source):
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "headgate.kernels.plan",
            "from headgate.kernels import native\nfrom headgate.errors import InputError",
        ),
        (
            "headgate.kernels.plan",
            "from . import native\nfrom .native import library\nfrom ..errors import InputError",
        ),
        ("headgate.kernels.__init__", "from .plan import sort_slots"),
        (
            "headgate.dispatch",
            "import torch\nfrom torch import Tensor\nfrom headgate.flow import DispatchPlan",
        ),
        ("headgate.cli.app", "from headgate.planning.machine import describe_machine"),
        ("headgate.scores", "import headgate_elsewhere"),
    ],
)
def test_the_check_passes_what_is_allowed(module, source):
    assert violations(source, module) == []
