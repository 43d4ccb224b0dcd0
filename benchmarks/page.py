"""Claim: the page of 2000 tokens, 48 layers and top-8 opens in under 2 s and scrolls at 60 frames a second.

Opening is the time from the start of navigation to the second frame after the verdict is in the document: base64, zlib,
JSON, 48 x 128 cells on a canvas and the first lines of text. Scrolling moves the text by 40 pixels in each frame; a
screen of 60 Hz has 16.7 ms for one.

Needs Chromium and playwright (`pip install 'headgate[dev]'`).
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from playwright.sync_api import Browser, Page, sync_playwright
from support.report import publish

from headgate.observe.page.build import make_page
from headgate.observe.page.document import write_page
from headgate.observe.trace import RoutingTrace

NUM_LAYERS, NUM_TOKENS, TOP_K, NUM_EXPERTS = 48, 2000, 8, 128
NUM_STRINGS = 500
ROUNDS = 5
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

NOTE_FRAME = """new MutationObserver((_, observer) => {
  if (!document.querySelector(".verdict")) return;
  observer.disconnect();
  requestAnimationFrame(() => requestAnimationFrame(() => { window.shown = performance.now(); }));
}).observe(document, { childList: true, subtree: true });"""

SCROLL = """async () => {
  const frame = document.querySelector(".text-frame");
  frame.scrollIntoView();
  frame.scrollTop = 0;
  await new Promise((done) => setTimeout(done, 500));
  const times = [];
  await new Promise((done) => {
    const step = (time) => {
      times.push(time);
      frame.scrollTop += 40;
      if (frame.scrollTop < frame.scrollHeight - frame.clientHeight - 1) requestAnimationFrame(step);
      else done();
    };
    requestAnimationFrame(step);
  });
  return times.slice(1).map((time, i) => time - times[i]);
}"""


def main() -> None:
    """Write the page, open it some times, and scroll its text from beginning to end."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        print(f"nothing to measure with: none of {', '.join(BROWSERS)} is on PATH")
        return
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = write_page(Path(folder) / "page.html", make_page(random_trace()))
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        opened, frames = [], []
        for _ in range(ROUNDS):
            page = open_page(browser, file.path)
            opened.append(page.evaluate("window.shown"))
            frames += page.evaluate(SCROLL)
            page.close()
        version = browser.version
        browser.close()
    frames.sort()
    row = [file.num_bytes / 1e6, statistics.median(opened), max(opened)]
    row += [statistics.median(frames), frames[int(0.95 * len(frames))], frames[-1]]
    columns = ["page MB", "open ms", "slowest", "frame ms", "95 %", "longest"]
    title = (
        f"{NUM_TOKENS} tokens, {NUM_LAYERS} layers, top-{TOP_K} of {NUM_EXPERTS} in Chromium {version}; {ROUNDS} rounds"
    )
    publish("page", title, columns, [row])


def open_page(browser: Browser, path: Path) -> Page:
    """Open the file in a new page, and wait until it is shown."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.add_init_script(NOTE_FRAME)
    page.goto(path.as_uri())
    while page.evaluate("window.shown ?? null") is None:
        page.wait_for_timeout(20)
    return page


def random_trace() -> RoutingTrace:
    """Routing that no compression helps with, and a text of some hundred words."""
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.random((NUM_LAYERS, NUM_TOKENS, NUM_EXPERTS), dtype=np.float32))
    weights, ids = scores.topk(TOP_K, dim=-1)
    counts = torch.stack([layer.flatten().bincount(minlength=NUM_EXPERTS) for layer in ids])
    return RoutingTrace(
        topk_ids=ids,
        topk_weights=(weights / weights.sum(-1, keepdim=True)).half(),
        layer_index=torch.arange(NUM_LAYERS, dtype=torch.int32),
        seq_offsets=torch.tensor([0, NUM_TOKENS]),
        counts=counts,
        token_ids=torch.from_numpy(rng.integers(0, NUM_STRINGS, NUM_TOKENS, dtype=np.int32)),
        position=torch.arange(NUM_TOKENS, dtype=torch.int32),
        forward_id=torch.arange(NUM_TOKENS, dtype=torch.int32) // 250,
        select_margin=torch.from_numpy(rng.random((NUM_LAYERS, NUM_TOKENS), dtype=np.float32)).half(),
        router_entropy=torch.from_numpy(rng.random((NUM_LAYERS, NUM_TOKENS), dtype=np.float32)).half(),
        router_logits=scores.half(),
        metadata={"model": "random routing", "token_strings": {str(n): f" word{n}" for n in range(NUM_STRINGS)}},
    )


if __name__ == "__main__":
    main()
