"""What a trace in memory or on the disk becomes for other tools: a table, a frame, a widget, HTML in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import pandas
    import pyarrow

    from headgate.observe.align import TraceSource


class TraceViews:
    """The views that both kinds of trace have; what makes them is read only when one is asked for."""

    __slots__ = ()

    def to_arrow(self) -> pyarrow.Table:
        """Turn the trace into an Arrow table, a row per token and layer; `headgate.observe.export` lists its columns.

        Raises:
            BackendError: pyarrow is not installed.

        Example:
            >>> import headgate, torch
            >>> layer = headgate.MoE(8, 16, num_experts=4, top_k=2)
            >>> with headgate.tap(layer) as tape:
            ...     _ = layer(torch.randn(5, 8))
            >>> headgate.trace_of(layer, tape, token_ids=torch.arange(5)).to_arrow().num_rows
            5
        """
        from headgate.observe.export import to_arrow

        return to_arrow(self._source())

    def to_pandas(self) -> pandas.DataFrame:
        """Turn the trace into a pandas frame with the same rows and columns.

        Raises:
            BackendError: pyarrow or pandas is not installed.
        """
        from headgate.observe.export import to_pandas

        return to_pandas(self._source())

    def widget(self, second: TraceSource | None = None) -> Any:
        """A widget for notebooks that shows the trace, or compares it with a second one; needs headgate[widget]."""
        from headgate.observe.page.notebook import make_widget

        return make_widget(self._source(), second)

    def _repr_html_(self) -> str:
        from headgate.observe.display import trace_html

        return trace_html(self._source())

    def _source(self) -> TraceSource:
        return cast("TraceSource", self)
