"""Numbers in sentences."""

from __future__ import annotations


def number_of(number: int, singular: str, plural: str | None = None) -> str:
    """A count and its noun, which agree.

    Args:
        number: how many.
        singular: the noun of one.
        plural: that of all other numbers; None = with an s.

    Example:
        >>> number_of(1, "sequence"), number_of(2048, "sequence"), number_of(0, "pass", "passes")
        ('1 sequence', '2,048 sequences', '0 passes')
    """
    return f"{number:,} {singular if number == 1 else plural or f'{singular}s'}"
