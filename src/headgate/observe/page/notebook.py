"""The page as a widget in a notebook."""

from __future__ import annotations

import functools
import zlib
from importlib import resources
from typing import TYPE_CHECKING

from headgate.errors import BackendError
from headgate.observe.align import TraceSource
from headgate.observe.page.build import make_page

if TYPE_CHECKING:
    from anywidget import AnyWidget


def make_widget(first: TraceSource, second: TraceSource | None = None) -> AnyWidget:
    """Make the widget that shows one trace, or compares two: the same views as the file of `headgate report`.

    Raises:
        BackendError: anywidget is not installed.
        InputError: the traces do not hold the same tokens, layers and experts.
    """
    widget = _widget_class()
    return widget(payload=zlib.compress(make_page(first, second).encode()))


@functools.cache
def _widget_class() -> type[AnyWidget]:
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise BackendError(f"a widget needs anywidget ({error}); pip install 'headgate[widget]'") from error

    class PageWidget(anywidget.AnyWidget):
        """Holds what the page reads, compressed."""

        _esm = resources.files("headgate.observe.page").joinpath("widget.js").read_text(encoding="utf-8")
        payload = traitlets.Bytes().tag(sync=True)

    return PageWidget
