"""Counts agree with their nouns."""

import pytest

from headgate.wording import number_of


@pytest.mark.parametrize(
    ("number", "words", "said"),
    [
        (0, ("token",), "0 tokens"),
        (1, ("token",), "1 token"),
        (2, ("token",), "2 tokens"),
        (12_345, ("pass", "passes"), "12,345 passes"),
        (1, ("pass", "passes"), "1 pass"),
        (1, ("row is", "rows are"), "1 row is"),
    ],
)
def test_one_is_singular_and_all_else_plural(number, words, said):
    assert number_of(number, *words) == said
