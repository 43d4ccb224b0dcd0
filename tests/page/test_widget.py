"""The widget draws the same page into an element, from the same payload."""

import base64
import zlib
from pathlib import Path

import pytest

from headgate.observe.page.payload import encode_payload
from made_up_page import made_up_page, made_up_trace

WIDGET = Path(__file__).parents[2] / "src" / "headgate" / "observe" / "page" / "widget.js"

# What anywidget does: import the module, hand it a model and an element, and keep what undoes it.
START = """async ([source, first]) => {
  const bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const listeners = new Set();
  let payload = bytes(first);
  const model = {
    get: (name) => (name === "payload" ? payload : null),
    on: (event, callback) => listeners.add(callback),
    off: (event, callback) => listeners.delete(callback),
  };
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const widget = (await import(url)).default;
  const el = document.body.appendChild(document.createElement("div"));
  window.undo = widget.render({ model, el });
  window.replace = (text) => { payload = bytes(text); for (const callback of listeners) callback(); };
  window.listeners = listeners;
}"""


def encode(header):
    return base64.b64encode(zlib.compress(encode_payload(header))).decode()


@pytest.fixture
def notebook(browser):
    page = browser.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto("about:blank")
    page.evaluate(START, [WIDGET.read_text(encoding="utf-8"), encode(made_up_page(made_up_trace()))])
    page.wait_for_selector(".verdict")
    yield page
    page.close()
    assert errors == []


def test_it_shows_every_part(notebook):
    parts = notebook.locator("main > section").evaluate_all("sections => sections.map(section => section.id)")
    assert parts == ["verdict", "map", "text", "walk", "experts", "size", "limits"]
    assert notebook.locator(".canvas-frame canvas").evaluate("canvas => canvas.width") > 0


def test_its_styles_stay_inside(notebook):
    assert notebook.evaluate("document.styleSheets.length") == 0
    assert notebook.locator(".house").evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(20, 23, 29)"


def test_new_data_makes_a_new_page(notebook):
    notebook.evaluate("text => window.replace(text)", encode(made_up_page(made_up_trace(), title="Another")))
    notebook.locator("h1", has_text="Another").wait_for()


def test_it_can_be_undone(notebook):
    notebook.evaluate("window.undo()")
    assert notebook.locator(".verdict").count() == 0
    assert notebook.evaluate("window.listeners.size") == 0
