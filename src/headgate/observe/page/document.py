"""The page as one HTML file: the template that ships with the package, and the data in it as base64."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from headgate.errors import ArtifactError
from headgate.files import explain_os_errors, replace_file
from headgate.observe.page.build import Page

_OPENING, _CLOSING = b'<script type="text/plain" id="headgate-data">', b"</script>"
_LEVEL = 9
_HEAD_BYTES = 2**20
"""The mark of a page is looked for in so many bytes; a template has at most 300 KB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenPage:
    """What was written.

    Attributes:
        path: of the file.
        num_bytes: its size.
        is_replacement: whether an older page was there.
    """

    path: Path
    num_bytes: int
    is_replacement: bool


def render_page(page: Page, *, template: bytes | None = None) -> bytes:
    """Put a page's data into the template.

    What goes into the file is base64, which holds no character that HTML knows, whatever the tokens are.

    Args:
        page: to render.
        template: with one empty element for the data; None = that of the package.
    """
    html = _template() if template is None else template
    place = _OPENING + _CLOSING
    assert html.count(place) == 1  # The build of the template checks it, too.
    data = base64.b64encode(zlib.compress(page.encode(), _LEVEL))
    return html.replace(place, _OPENING + data + _CLOSING)


def write_page(path: Path, page: Page) -> WrittenPage:
    """Write a page, in one step. An older page is replaced, and nothing else.

    Raises:
        ArtifactError: something else has that name, or the file can't be written.
    """
    is_replacement = path.exists()
    if is_replacement and not is_page(path):
        raise ArtifactError(f"{path} exists and is no page of Headgate, so it stays; choose another name")
    content = render_page(page)
    replace_file(path, content)
    return WrittenPage(path=path, num_bytes=len(content), is_replacement=is_replacement)


def is_page(path: Path) -> bool:
    """Whether a file is a page that Headgate wrote.

    Raises:
        ArtifactError: it can't be read.
    """
    if not path.is_file():
        return False
    with explain_os_errors("read", path), path.open("rb") as file:
        return _OPENING in file.read(_HEAD_BYTES)


def _template() -> bytes:
    return resources.files("headgate.observe.page").joinpath("template.html").read_bytes()
