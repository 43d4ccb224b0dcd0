"""Every example in a docstring runs and prints what it says."""

import ast
import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
WITH_DOCSTRING = ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef


def examples_in(text: str, where: str) -> Iterator[doctest.DocTest]:
    """The examples of a Python text, read from the text because decorators hide functions from doctest."""
    for node in ast.walk(ast.parse(text)):
        docstring = ast.get_docstring(node) if isinstance(node, ast.Module | WITH_DOCSTRING) else None
        if docstring and ">>>" in docstring:
            name = f"{where}:{getattr(node, 'name', 'module')}"
            yield doctest.DocTestParser().get_doctest(docstring, {}, name, where, 0)


EXAMPLES = [
    pytest.param(".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"), example)
    for path in sorted(SOURCE.rglob("*.py"))
    for example in examples_in(path.read_text(encoding="utf-8"), path.relative_to(SOURCE).as_posix())
]


def run_example(example: doctest.DocTest, names: dict[str, object]) -> tuple[int, str]:
    example.globs = dict(names)
    report: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(example, out=report.append)
    return results.failed, "".join(report)


@pytest.mark.parametrize(("module", "example"), EXAMPLES, ids=[p.values[1].name for p in EXAMPLES])
def test_an_example_runs_as_written(module, example):
    failed, report = run_example(example, vars(importlib.import_module(module)))
    assert failed == 0, report


def test_there_are_examples():
    assert len(EXAMPLES) > 0


def test_a_wrong_example_is_noticed():
    (example,) = examples_in('def f():\n    """One.\n\n    >>> 1 + 1\n    3\n    """\n', "made_up.py")
    failed, report = run_example(example, {})
    assert failed == 1
    assert "Expected:\n    3\nGot:\n    2" in report
