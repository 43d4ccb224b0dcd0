"""The one place that decides when two results are the same. It owns every tolerance."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

MARGIN = 8.0


def assert_integers_equal(name: str, actual: Any, expected: Any) -> None:
    """Integers, booleans and shapes compare exactly.

    Raises:
        AssertionError: names the first entry that differs, and how many do.
    """
    got, want = torch.as_tensor(actual), torch.as_tensor(expected)
    if got.dtype.is_floating_point or want.dtype.is_floating_point:
        raise AssertionError(f"{name}: {got.dtype} and {want.dtype} are not integers; use assert_close")
    if got.shape != want.shape:
        raise AssertionError(f"{name}: shape {list(got.shape)}, expected {list(want.shape)}")
    wrong = (got != want).nonzero().tolist()
    if wrong:
        at = tuple(wrong[0])
        raise AssertionError(
            f"{name}: {len(wrong)} of {got.numel()} differ, the first at {list(at)}: "
            f"{got[at].item()}, expected {want[at].item()}\n{got.tolist()}\nexpected\n{want.tolist()}"
        )


def assert_close(
    name: str, actual: Tensor, expected: Tensor, *, dtype: torch.dtype, terms: int, scale: float = 0.0
) -> None:
    """Floats compare by relative RMS and by maximum error, each within MARGIN * eps(dtype) * sqrt(terms).

    Derivation. With unit roundoff eps / 2, each of the n operations that lead to a number adds an error of at
    most eps / 2 of the partial result, of either sign. Independent signs make these grow as sqrt(n):
    sqrt(n) * eps / 2 (N. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd edition, 2002,
    section 2.8). An entry goes through about 16 roundings outside the sums (score function, normalisation,
    activation, weights, and their derivatives), each in a stage with a condition number near 1, in front of
    sums that they share: so 16 / 2 = 8 = MARGIN times what one sum of `terms` numbers gives. The magnitude
    that eps is relative to is the RMS (the maximum) of what is expected; where its terms cancel, it is
    `scale`, the size of the terms.

    Args:
        name: what is compared, for the message.
        actual: the library's.
        expected: the oracle's, any float dtype.
        dtype: what `actual` was computed in.
        terms: the length of the longest sum that leads to an entry.
        scale: the typical size of the terms, where they may cancel; 0 where they don't.

    Raises:
        AssertionError: a shape, a NaN or infinity in one and not the other, or an error beyond the bound.
    """
    if actual.shape != expected.shape:
        raise AssertionError(f"{name}: shape {list(actual.shape)}, expected {list(expected.shape)}")
    got, want = actual.detach().double(), expected.detach().double()
    is_finite = want.isfinite()
    if not torch.equal(got.isfinite(), is_finite) or not torch.equal(got.isnan(), want.isnan()):
        raise AssertionError(f"{name}: not finite in other places\n{got}\nexpected\n{want}")
    if not torch.equal(got[want.isinf()], want[want.isinf()]):
        raise AssertionError(f"{name}: infinities of the other sign\n{got}\nexpected\n{want}")
    bound = MARGIN * torch.finfo(dtype).eps * math.sqrt(max(terms, 1))
    _require_within(name, got[is_finite], want[is_finite], bound, scale)


def _require_within(name: str, got: Tensor, want: Tensor, bound: float, scale: float) -> None:
    if want.numel() == 0:
        return
    error = (got - want).abs()
    rms, reference = error.square().mean().sqrt().item(), max(want.square().mean().sqrt().item(), scale)
    worst, largest = error.max().item(), max(want.abs().max().item(), scale)
    if rms > bound * reference or worst > bound * largest:
        at = int(error.argmax())
        raise AssertionError(
            f"{name}: RMS error {rms:.2e} of {reference:.2e}, maximum {worst:.2e} of {largest:.2e} "
            f"(entry {at}: {got[at].item():.9g}, expected {want[at].item():.9g}); allowed {bound:.2e}"
        )
