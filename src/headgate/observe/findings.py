"""A battery's verdicts: one line for each thing that was looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["pass", "warn", "fail", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The verdict on one thing.

    Attributes:
        check: what was looked at, as in "dead experts".
        status: "unknown" where there is not enough to tell; the sentence says what is missing.
        sentence: with the figures.
    """

    check: str
    status: Status
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def has_failed(findings: Sequence[Finding]) -> bool:
    """Whether a gate should close: only what is certainly wrong counts."""
    return any(finding.status == "fail" for finding in findings)


def name_layers(layers: Sequence[int], *, longest: int = 6) -> str:
    """Name some decoder layers in a sentence.

    Example:
        >>> name_layers([3]), name_layers([1, 2]), name_layers(range(9))
        ('layer 3', 'layers 1, 2', 'layers 0, 1, 2, 3, 4, 5, ... (9)')
    """
    shown = ", ".join(map(str, list(layers)[:longest]))
    if len(layers) > longest:
        shown += f", ... ({len(layers)})"
    return f"layer {shown}" if len(layers) == 1 else f"layers {shown}"
