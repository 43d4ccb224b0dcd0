"""The page about transformers is true: its table is that of the installed version, and the defects are there."""

from __future__ import annotations

import runpy

import pytest
import torch

from headgate.balance import switch_loss
from integrations import table

DEFECTS = runpy.run_path(str(table.PAGE.with_name("transformers_defects.py")))["DEFECTS"]


def test_the_table_is_that_of_the_installed_version():
    page = table.PAGE.read_text(encoding="utf-8")
    kept = page.partition(table.BEGIN)[2].partition(table.END)[0].strip()
    assert kept == table.make_table(), "run: python tests/integrations/table.py"


@pytest.mark.parametrize("title", DEFECTS)
def test_a_defect_that_the_page_reports_is_there(title):
    is_confirmed, seen = DEFECTS[title]()
    assert is_confirmed, f"{title}: {seen}. Where transformers has mended it, take it off docs/transformers.md"


def test_the_loss_of_a_layer_sees_what_the_pooled_one_does_not():
    one = torch.tensor([[9.0, -9.0]]).repeat(4, 1)
    assert float(switch_loss(one.softmax(1), torch.tensor([4, 0]))) > 1.99
