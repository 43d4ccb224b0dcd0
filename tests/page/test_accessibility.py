"""axe-core finds nothing serious, in any view, step, theme or width."""

import pytest
from axe_playwright_python.sync_playwright import Axe

from made_up_page import made_up_trace, write_made_up


def serious(page, part="body"):
    violations = Axe().run(page, context=part).response["violations"]
    return [
        (violation["id"], node["target"], node.get("failureSummary"))
        for violation in violations
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"][:3]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_on_the_page(open_file, trace_file, scheme):
    page = open_file(trace_file, color_scheme=scheme, reduced_motion="reduce")
    page.locator("summary").click()
    page.get_by_label("find").fill("gate")
    assert serious(page) == []


def test_nothing_serious_in_any_step(open_file, trace_file):
    # Windows change their light over a third of a second, and with it the contrast, unless motion is reduced.
    page = open_file(trace_file, reduced_motion="reduce")
    for step in range(6):
        assert serious(page, "#walk") == [], step
        page.get_by_role("button", name="next →").click(force=True)


def test_nothing_serious_in_chips_of_a_colour_ramp(page):
    page.get_by_label("coloured by").select_option("margin")
    assert serious(page, ".text-frame") == []


def test_nothing_serious_side_by_side_on_a_narrow_screen(open_file, tmp_path):
    path = write_made_up(tmp_path / "two.html", made_up_trace(), made_up_trace(seed=1))
    assert serious(open_file(path, viewport={"width": 390, "height": 800})) == []


def test_a_chosen_theme_overrides_the_system(open_file, trace_file):
    page = open_file(trace_file, color_scheme="light", reduced_motion="reduce")
    page.get_by_label("Colours").select_option("dark")
    page.wait_for_selector(".page[data-theme=dark]")
    assert page.locator(".page").evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(21, 23, 27)"


def test_motion_is_reduced_where_asked(open_file, trace_file):
    page = open_file(trace_file, reduced_motion="reduce")
    moves = page.locator(".windows span").first.evaluate("e => getComputedStyle(e).transitionDuration")
    assert set(moves.split(", ")) == {"0s"}
