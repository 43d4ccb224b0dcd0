"""The README: its code runs, its table of presets is complete, and its map shows what is there."""

import re
from pathlib import Path

import pytest

import headgate

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_code_runs_as_written(block, capsys):
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out


def test_every_preset_is_in_the_table_and_counted():
    table = README[README.index("## Routers") : README.index("## What was measured")]
    assert set(re.findall(r"`(\w+)`", table)) >= set(headgate.preset_names())
    assert f"... {len(headgate.preset_names())} of them" in README


def test_the_map_names_only_what_exists():
    tree = README[README.index("## The map") : README.index("## Limits")]
    names = re.findall(r"^    (?:  )?((?:[\w./]+\.py|[\w/]+/)(?: [\w./]+\.py)*)  ", tree, re.M)
    assert len(names) > 10
    for entry in names:
        for name in entry.split():
            assert (ROOT / name).exists() or (ROOT / "src" / "headgate" / name).exists(), name


def test_the_map_names_every_part_of_the_package():
    tree = README[README.index("## The map") : README.index("## Limits")]
    for path in (ROOT / "src" / "headgate").iterdir():
        if not path.name.startswith("_") and path.suffix in ("", ".py"):
            assert path.name in tree, path.name
