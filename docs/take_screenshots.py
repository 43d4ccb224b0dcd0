"""Take the pictures of the page in README and docs: `python docs/take_screenshots.py runs/demo`.

Needs Chromium, and `pip install playwright`.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page, sync_playwright

from headgate.observe.page.build import make_page
from headgate.observe.page.document import write_page
from headgate.observe.reader import open_trace

OUT = Path(__file__).parent / "images"
_WIDTH, _HEIGHT = 1240, 1420
_COLOURS = 256
"""Of a palette: the page has few, and a picture stays far below 200 kB."""


def main() -> None:
    """Write a page of a run's sample, and picture its beginning and a step of the walk."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a demo run")
    sample = open_trace(parser.parse_args().run / "sample.safetensors")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = write_page(Path(folder) / "page.html", make_page(sample, names=("demo", ""))).path
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": _WIDTH, "height": _HEIGHT}, color_scheme="light")
        page.goto(path.as_uri())
        page.wait_for_selector(".verdict")
        page.wait_for_timeout(500)  # Canvases are drawn in the next frames.
        _take(page, OUT / "report.png")
        walk = page.locator("section", has=page.get_by_role("heading", name="One token, one layer, six steps"))
        for _ in range(3):
            walk.get_by_role("button", name="next →").click()
        _take(walk, OUT / "report-walk.png")
        browser.close()


def _take(what: Page | Locator, path: Path) -> None:
    """Write a picture with a small palette."""
    what.screenshot(path=path, animations="disabled")
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(_COLOURS).save(path, optimize=True)
    print(f"{path} ({path.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
