import sys
import zlib

import pytest

from headgate.errors import BackendError
from headgate.observe.page import notebook
from headgate.observe.reader import open_trace
from headgate.observe.writer import save_trace
from page_reader import read_payload
from traces import random_trace


def test_a_widget_holds_what_the_page_reads(tmp_path):
    pytest.importorskip("anywidget")
    trace = random_trace(drop=0)
    save_trace(tmp_path / "a.safetensors", trace)
    for widget in (trace.widget(), open_trace(tmp_path / "a.safetensors").widget()):
        found = read_payload(zlib.decompress(widget.payload))
        assert found["traces"][0]["arrays"]["topk_ids"].tolist() == trace.topk_ids.tolist()
        assert "payload" in widget.keys  # Sent to the browser.
    assert read_payload(zlib.decompress(trace.widget(trace).payload))["comparison"] is not None


def test_without_anywidget_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    notebook._widget_class.cache_clear()
    with pytest.raises(BackendError, match=r"a widget needs anywidget .*; pip install 'headgate\[widget\]'"):
        random_trace().widget()
    notebook._widget_class.cache_clear()
