"""The table of docs/transformers.md, from the installed transformers: `python tests/integrations/table.py`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "transformers.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def make_table() -> str:
    """One line for each architecture: how its experts run on our backend, and its router."""
    import transformers

    from integrations import zoo

    lines = [
        f"transformers {transformers.__version__}: {len(zoo.architectures())} architectures with experts.",
        "",
        "| architecture | interface | experts on headgate | replay | router |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(describe(name) for name in zoo.architectures())])


def describe(name: str) -> str:
    import headgate.integrations.transformers as integration
    from headgate.integrations.transformers.sites import find_sites
    from headgate.spec.words import describe_in_symbols
    from integrations import zoo

    model = zoo.build(name)
    ways = dict.fromkeys(
        layer.reason if layer.is_switched else f"theirs: {layer.reason}"
        for layer in integration.accelerate(model, any_device=True).layers
    )
    sites = find_sites(model)
    formulas = {}
    for site in sites:
        formula = integration.formula_from_config(model.config, layer_index=site.layer_index)
        said = "" if formula.spec is None else f"`{describe_in_symbols(formula.spec)}`"
        formulas[" ".join(part for part in (said, f"({formula.note})" if formula.note else "") if part)] = None
    replayed = "own or recorded weights" if all(has_own_weights(model, site) for site in sites) else "recorded weights"
    inside = "yes" if zoo.is_in_interface(name) else "no"
    return f"| {name} | {inside} | {'; '.join(ways)} | {replayed} | {'; '.join(formulas)} |"


def has_own_weights(model, site) -> bool:
    """Whether a replay can weigh any choice as the model would."""
    from headgate.errors import InputError
    from headgate.integrations.transformers.replay import require_formula

    try:
        require_formula(model, site)
    except InputError:
        return False
    return True


def write_page() -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{make_table()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    write_page()
