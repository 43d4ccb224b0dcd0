import dataclasses
import re

import pytest
import torch

from headgate.observe.display import escape_text
from headgate.observe.reader import load_trace, open_trace
from headgate.observe.writer import save_trace
from traces import random_trace

HOSTILE = {
    "<script>alert(1)</script>": "<script>alert(1)</script>",
    "\x1b[2J\x07": r"\x1b[2J\x07",
    "a\nb\r\tc": r"a\nb\r\tc",
    "\u202eabc\u2066\u200b": r"\u202eabc\u2066\u200b",
    "\u2028\u00a0": r"\u2028\xa0",
    "\ud800": r"\ud800",
    "back\\slash": r"back\\slash",
    "caf\u00e9 \u4e2d": "caf\u00e9 \u4e2d",
    "x" * 50: "x" * 40 + "\u2026",
}


@pytest.mark.parametrize(("text", "shown"), HOSTILE.items(), ids=range(len(HOSTILE)))
def test_text_is_shown_as_one_visible_line(text, shown):
    assert escape_text(text) == shown


def test_a_notebook_shows_text_and_runs_none():
    strings = {str(number): "<script>\x1b\u202e" for number in range(50)}
    page = random_trace(token_strings=strings, model="<img src=x>")._repr_html_()
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;\\x1b\\u202e" in page
    assert "3 sequences, 12 tokens, 3 layers, 6 experts, top 2" in page


def test_a_layer_without_rows_can_be_shown():
    empty = dataclasses.replace(random_trace(full=False), counts=torch.zeros(3, 6, dtype=torch.int64), metadata={})
    assert "No row reached an expert" in empty._repr_html_()
    assert "Routing trace" in empty._repr_html_()


def test_the_map_has_a_cell_for_each_expert_and_says_what_its_colours_mean():
    counts = torch.tensor([[10, 10, 10, 10, 10, 10], [300, 300, 0, 0, 0, 0], [10, 5, 15, 10, 10, 10]])
    trace = dataclasses.replace(random_trace(), counts=counts)
    shown = trace._repr_html_()
    cells = re.findall(r"M(\d+) (\d+)h1v1h-1z", shown)
    assert sorted(cells) == sorted((str(expert), str(row)) for row in range(3) for expert in range(6))
    assert '<path fill="#0d0f13" d="M2 1h1v1h-1zM3 1h1v1h-1zM4 1h1v1h-1zM5 1h1v1h-1z"/>' in shown
    assert "<b>collapsed</b>: 1 of 3 layers collapsed (layer 2)" in shown


def test_a_file_is_shown_as_the_trace_in_it(tmp_path):
    save_trace(tmp_path / "a.safetensors", random_trace(token_strings={"1": "a"}))
    path = tmp_path / "a.safetensors"
    assert open_trace(path)._repr_html_() == load_trace(path)._repr_html_()


def test_hostile_strings_survive_the_file(tmp_path):
    strings = {str(number): text for number, text in enumerate(HOSTILE)}
    save_trace(tmp_path / "a.safetensors", random_trace(token_strings=strings))
    assert load_trace(tmp_path / "a.safetensors").metadata["token_strings"] == strings
