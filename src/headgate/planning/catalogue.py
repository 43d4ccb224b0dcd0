"""Well-known models as data: configuration, published figures, source and date."""

from __future__ import annotations

import difflib
import functools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from importlib.resources import files
from typing import Any

from headgate.errors import InputError

_UNITS = {"M": 6, "B": 9, "T": 12}


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What a vendor says of a model.

    Attributes:
        total, active: as printed, such as "46.7B".
        convention: what the source says that `active` counts; None where it does not say.
        source, date: where the figures come from, and when they were put down here.
        note: what else belongs to them.
    """

    total: str
    active: str
    convention: str | None
    source: str
    date: str
    note: str = ""

    def compare(self, active: Mapping[str, int]) -> dict[str, Any]:
        """The figure, and the conventions in which counts agree with it.

        Args:
            active: counts by convention.
        """
        return {
            "figure": self.active,
            "stated_convention": self.convention,
            "matches": [name for name, count in active.items() if agrees(count, self.active)],
            "source": self.source,
            "date": self.date,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """A well-known model.

    Attributes:
        name: as the command line takes it.
        hub_id: where its checkpoint is.
        config: what `config.json` says of its shape.
        published: by its vendor.
    """

    name: str
    hub_id: str
    config: Mapping[str, Any]
    published: Published


@functools.cache
def catalogue() -> Mapping[str, CatalogueEntry]:
    """Every model of the catalogue by name.

    Example:
        >>> catalogue()["olmoe-1b-7b"].published.total
        '6.92B'
    """
    text = files("headgate.planning").joinpath("data", "catalogue.json").read_text(encoding="utf-8")
    entries = (
        CatalogueEntry(
            name=record["name"],
            hub_id=record["hub_id"],
            config=record["config"],
            published=Published(**record["published"]),
        )
        for record in json.loads(text)["models"]
    )
    return {entry.name: entry for entry in entries}


def find_model(name: str) -> CatalogueEntry | None:
    """The entry of a name or Hub id, in any case; None where the catalogue has none."""
    wanted = name.lower()
    found = catalogue().get(wanted)
    return found or next((entry for entry in catalogue().values() if entry.hub_id.lower() == wanted), None)


def suggest_models(name: str) -> str:
    """A hint for a name that resolves to nothing: what is near it in the catalogue, or all of it."""
    near = difflib.get_close_matches(name.lower(), catalogue(), n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"built-in names: {', '.join(catalogue())}"


def agrees(count: int, printed: str) -> bool:
    """Whether a count equals a printed figure to its last printed digit, rounded or cut off there.

    Vendors do both: 3.353 billion is printed as 3.3B on one card, 12.88 billion as 12.9B on another.

    Args:
        count: parameters.
        printed: digits and a unit, M, B or T.

    Raises:
        InputError: `printed` is no such figure.

    Example:
        >>> agrees(12_879_925_248, "12.9B"), agrees(3_353_000_000, "3.3B"), agrees(3_353_000_000, "3.5B")
        (True, True, False)
    """
    found = re.fullmatch(r"(\d+(?:\.(\d+))?)([MBT])", printed)
    if not found:
        raise InputError(f"printed (={printed}) must be a number with M, B or T, such as 46.7B; write it so")
    digits = len(found[2] or "")
    value = Decimal(count).scaleb(-_UNITS[found[3]])
    step = Decimal(1).scaleb(-digits)
    return Decimal(found[1]) in (value.quantize(step, ROUND_HALF_UP), value.quantize(step, ROUND_DOWN))


def print_count(count: int) -> str:
    """A count of parameters as people write it.

    Example:
        >>> print_count(6_919_161_856), print_count(2_360_000)
        ('6.92B', '2.36M')
    """
    if count < 1000:
        return str(count)
    power = min(int(math.log10(count)) // 3, 4)
    return f"{count / 1000**power:.{2 if count / 1000**power < 100 else 1}f}{' kMBT'[power]}"
