import dataclasses
import re
import sys

import pytest
import torch

from headgate.errors import ArtifactError, BackendError, InputError
from headgate.observe.figures import save_figure
from headgate.observe.pieces import recount
from traces import random_trace

matplotlib = pytest.importorskip("matplotlib")


@pytest.fixture
def pair():
    first = random_trace(lengths=(50,), drop=0)
    ids = first.topk_ids.clone()
    ids[1, :10] = (ids[1, :10] + 1) % 6
    second = dataclasses.replace(first, topk_ids=ids)
    return [first, dataclasses.replace(second, counts=recount(second))]


def texts(path):
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("subject", ["load", "margin", "diff"])
@pytest.mark.parametrize(("suffix", "mark"), [(".svg", b"<?xml"), (".pdf", b"%PDF"), (".png", b"\x89PNG")])
def test_each_figure_in_each_format_has_the_same_bytes_each_time(pair, tmp_path, subject, suffix, mark, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # It can't be imported.
    settings = matplotlib.rcParams.copy()
    for name in ("a", "b"):
        save_figure(tmp_path / f"{name}{suffix}", subject, pair)
    first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("a", "b"))
    assert first.startswith(mark)
    assert first == second
    assert b"<dc:date>" not in first
    assert b"CreationDate" not in first
    assert matplotlib.rcParams.copy() == settings


def test_text_stays_text_and_names_are_taken_as_they_are(pair, tmp_path):
    save_figure(tmp_path / "a.svg", "load", pair, names=("$\\alpha$ <b>", "int8"))
    assert {"$\\alpha$ &lt;b&gt;", "int8", "expert", "layer", "load / even share"} <= set(texts(tmp_path / "a.svg"))
    save_figure(tmp_path / "b.svg", "margin", pair, names=("x", "y"))
    assert {"x, median", "y, lowest 1 %", "margin of the last choice"} <= set(texts(tmp_path / "b.svg"))


def test_what_changed_is_where_it_changed(pair, tmp_path):
    save_figure(tmp_path / "a.svg", "diff", pair)
    assert {"choices changed", "fifth of the margin", "least", "0.0%"} <= set(texts(tmp_path / "a.svg"))
    without = [dataclasses.replace(trace, select_margin=None) for trace in pair]
    save_figure(tmp_path / "b.svg", "diff", without)
    assert "no margins recorded" in texts(tmp_path / "b.svg")


def test_a_figure_is_as_wide_as_asked(pair, tmp_path):
    save_figure(tmp_path / "a.svg", "margin", pair[:1], width=5.0)
    assert 'width="360pt"' in (tmp_path / "a.svg").read_text(encoding="utf-8")


def test_experts_and_layers_without_rows(tmp_path):
    counts = torch.tensor([[5, 0, 5, 5, 5, 5], [0] * 6, [1, 2, 3, 4, 5, 6]])
    trace = dataclasses.replace(random_trace(full=False), counts=counts)
    save_figure(tmp_path / "a.svg", "load", [trace])
    assert "#595959" in (tmp_path / "a.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "subject", "number", "error"),
    [
        ("a.jpeg", "load", 1, r"'a\.jpeg' must end in one of \.svg, \.pdf, \.png; \.pdf suits LaTeX, \.svg the web"),
        ("a.svg", "diff", 1, r"subject \(='diff'\) compares two traces; give a second one of the same tokens"),
    ],
)
def test_what_makes_no_sense(pair, tmp_path, name, subject, number, error):
    with pytest.raises(InputError, match=error):
        save_figure(tmp_path / name, subject, pair[:number])


def test_nothing_to_draw(tmp_path):
    empty = dataclasses.replace(random_trace(full=False), counts=torch.zeros(3, 6, dtype=torch.int64))
    with pytest.raises(InputError, match="the trace has no rows, so there is no load to draw"):
        save_figure(tmp_path / "a.svg", "load", [empty])
    with pytest.raises(InputError, match="the trace has no margins to draw; record select_margin"):
        save_figure(tmp_path / "a.svg", "margin", [empty])
    assert list(tmp_path.iterdir()) == []


def test_a_figure_that_cant_be_written(pair, tmp_path):
    with pytest.raises(ArtifactError, match="can't write"):
        save_figure(tmp_path / "nowhere" / "a.svg", "load", pair)


def test_without_matplotlib_the_remedy_is_named(pair, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BackendError, match=r"figures need matplotlib .*; pip install 'headgate\[plot\]'"):
        save_figure(tmp_path / "a.svg", "load", pair)
