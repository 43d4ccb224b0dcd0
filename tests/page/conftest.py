"""A browser that opens pages from disk, and fails a test in which a page complains or asks for anything else."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from made_up_page import made_up_trace, write_made_up

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
Open = Callable[..., Page]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on PATH")
    with sync_playwright() as playwright:
        # The sandbox needs privileges that a container lacks; the pages are our own.
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def open_file(browser: Browser) -> Iterator[Open]:
    """Open a file; `options` are those of a browser context. What the page asks for beyond the file is refused."""
    complaints: list[str] = []
    contexts = []

    def open_page(path: Path, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()

        def judge(route: Any) -> None:
            if route.request.url.split("#")[0] == path.as_uri():
                route.continue_()
            else:
                complaints.append(f"asked for {route.request.url}")
                route.abort()

        page.route("**/*", judge)
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.goto(path.as_uri())
        page.wait_for_selector(".verdict, [role=alert]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="session")
def trace() -> dict[str, Any]:
    """Four layers, 240 tokens, top-2 of 8."""
    return made_up_trace()


@pytest.fixture(scope="session")
def trace_file(trace: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_made_up(tmp_path_factory.mktemp("page") / "one.html", trace)


@pytest.fixture
def page(open_file: Open, trace_file: Path) -> Page:
    return open_file(trace_file)
