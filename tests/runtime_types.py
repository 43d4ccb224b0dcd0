"""The checker that the tests put on every signature: beartype, except that it takes `Self` for anything."""

from typing import Any, Self

from beartype import beartype


def check(function: Any) -> Any:
    """beartype reads `Self` only on whole classes, and jaxtyping hands it one function at a time."""
    annotations = getattr(function, "__annotations__", {})
    annotations.update({name: Any for name, hint in annotations.items() if hint is Self or hint == "Self"})
    return beartype(function)
