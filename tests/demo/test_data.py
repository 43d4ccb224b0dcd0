import ast
import sys

import pytest

from headgate.demo import data
from headgate.demo.data import Document, read_documents


@pytest.fixture(scope="module")
def real():
    return read_documents()


def test_the_documents_are_those_of_python(real):
    names = [document.name for document in real]
    assert len(names) == len(set(names))
    assert "topic attribute-access" in names
    assert "module textwrap" in names
    assert sum(len(document.text) for document in real) > 1_000_000


def test_the_order_is_fixed(real):
    assert [document.name for document in read_documents()] == [document.name for document in real]
    topics = [document.name for document in real if document.name.startswith("topic ")]
    assert topics == sorted(topics)


def test_a_small_part_is_held_out(real):
    held_out = [len(document.text) for document in real if document.is_held_out]
    assert 0.02 < sum(held_out) / sum(len(document.text) for document in real) < 0.12
    assert max(held_out) < sum(held_out) / 3


def test_what_is_held_out_depends_on_the_name_alone():
    assert Document(name="topic strings", text="").is_held_out
    assert not Document(name="module textwrap", text="").is_held_out


def test_docstrings_are_read_without_an_import(tmp_path, monkeypatch):
    package = tmp_path / "watched"
    package.mkdir()
    (package / "__init__.py").write_text('"""Says what it is."""\nraise SystemExit\n')
    source = f'"""{"Module. " * 40}"""\nclass A:\n    """Class."""\n    async def f(self):\n        """Method."""\n'
    (package / "inner.py").write_text(source)
    (package / "broken.py").write_text("def (")
    (package / "test").mkdir()
    (package / "test" / "skipped.py").write_text('"""' + "Not read. " * 40 + '"""')
    monkeypatch.setattr(data.sysconfig, "get_path", lambda name: str(tmp_path))
    found = {document.name: document.text for document in read_documents() if document.name.startswith("module ")}
    assert list(found) == ["module watched.inner"]
    text = found["module watched.inner"]
    assert text.startswith("watched.inner\nModule. Module.")
    assert text.endswith("watched.inner.A\nClass.\n\nwatched.inner.A.f\nMethod.")
    assert "watched" not in sys.modules


def test_no_warning_of_the_parser_gets_out(tmp_path):
    path = tmp_path / "odd.py"
    path.write_text('"""Odd \\d escape."""\n')
    assert data._docstrings("odd", path) == "odd\nOdd \\d escape."
    assert ast.get_docstring(ast.parse('"""x"""')) == "x"
