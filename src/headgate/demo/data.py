"""The demo's text: Python's own documentation, so that nothing is downloaded.

The language reference's topics (`pydoc_data`) and the docstrings of the standard library, read from source without
importing a module. Documents come in a fixed order, and a stable hash of their names holds some out of training.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

_SKIPPED_FOLDERS = frozenset(
    {"__pycache__", "dist-packages", "idlelib", "lib2to3", "pydoc_data", "site-packages", "test", "tests"}
)
_HELD_OUT_OF = 20
"""One document in so many is held out."""

_SALT = "validation "
"""Goes before the name that is hashed; with this one no single document makes up most of the held-out text."""

_SHORTEST = 200
"""Shorter documents (in characters) are left out: they would be little but a heading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text with its name."""

    name: str
    text: str

    @property
    def is_held_out(self) -> bool:
        """Whether the document is for validation. Depends on its name alone, on every machine."""
        digest = hashlib.sha256(f"{_SALT}{self.name}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % _HELD_OUT_OF == 0


def read_documents() -> list[Document]:
    """Read all documents, in a fixed order: the topics by name, then the modules by path."""
    found = [Document(name=f"topic {name}", text=topics[name].strip()) for name in sorted(topics)]
    found += _read_modules(Path(sysconfig.get_path("stdlib")))
    return [document for document in found if len(document.text) >= _SHORTEST]


def _read_modules(folder: Path) -> Iterator[Document]:
    for path in _python_files(folder):
        name = ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
        yield Document(name=f"module {name}", text=_docstrings(name, path))


def _python_files(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(set(folders) - _SKIPPED_FOLDERS)
        for file in sorted(files):
            if file.endswith(".py"):
                yield Path(parent, file)


def _docstrings(name: str, path: Path) -> str:
    """Join the docstrings of a module and of what it defines, each under its name; empty if it doesn't parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return ""  # The standard library ships some files that are broken on purpose.
    return "\n\n".join(f"{title}\n{text}" for title, text in _walk(tree, name))


def _walk(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> Iterator[tuple[str, str]]:
    text = ast.get_docstring(node)
    if text:
        yield name, text
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _walk(child, f"{name}.{child.name}")
