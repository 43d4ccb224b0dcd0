"""Two traces: the same views side by side, and the most changed tokens first."""

import numpy as np
import pytest

from made_up_page import made_up_trace, write_made_up


@pytest.fixture(scope="module")
def traces():
    first, second = made_up_trace(name="float32"), made_up_trace(name="int4")
    ids = second["arrays"]["topk_ids"]
    # Expert e becomes 7 - e in a tenth of the slots: still two different experts, or the change is undone.
    is_changed = np.random.default_rng(3).random(ids.shape[:2]) < 0.1
    ids[is_changed] = 7 - ids[is_changed]
    return first, second


@pytest.fixture
def pair(open_file, traces, tmp_path):
    return open_file(write_made_up(tmp_path / "two.html", *traces))


def test_the_same_views_side_by_side(pair):
    for part in ("verdict", "map", "text", "walk", "experts", "size"):
        assert pair.locator(f"#{part} .side").count() == 2, part
    assert pair.locator("#map .side-name").all_inner_texts() == ["A float32", "B int4"]


def test_the_most_changed_come_first_and_are_chosen(pair, traces):
    first, second = (trace["arrays"]["topk_ids"] for trace in traces)
    overlap = (first[..., :, None] == second[..., None, :]).any(-1).sum(-1).sum(0)
    most = overlap.argsort(kind="stable")
    shown = pair.locator(".changed .fine").all_inner_texts()
    assert shown == [f"token {token}" for token in most[: len(shown)]]
    assert pair.locator(".picked").inner_text().startswith(f"token {most[0]} ")
    pair.locator(".changed button").nth(4).click()
    assert pair.locator(".picked").inner_text().startswith(f"token {most[4]} ")


def test_chips_show_how_many_experts_are_in_common(pair, traces):
    first, second = (trace["arrays"]["topk_ids"] for trace in traces)
    layer = int(pair.locator("#text select").nth(1).input_value())
    chips = pair.locator("#text .chip").evaluate_all("chips => chips.map(chip => [+chip.dataset.token, chip.title])")
    for token, title in chips:
        common = len(set(first[layer, token]) & set(second[layer, token]))
        assert title == f"{common} of 2 experts in common"


def test_both_walks_take_the_same_steps_each_with_its_own_experts(pair, traces):
    token = int(pair.locator(".picked").inner_text().split()[1])
    layer = int(pair.locator("#walk select").input_value())
    pair.locator("#walk").focus()
    pair.keyboard.press("ArrowRight")
    pair.keyboard.press("ArrowRight")
    for side, trace in enumerate(traces):
        lit = pair.locator(f'#walk [data-side="{side}"] [data-state="lit"]').evaluate_all(
            "all => all.map(e => +e.dataset.expert)"
        )
        assert set(lit) == set(trace["arrays"]["topk_ids"][layer, token])


def test_a_token_chosen_in_one_text_is_chosen_in_the_other(pair):
    pair.locator('#text [data-side="1"] .text-frame').focus()
    pair.keyboard.press("ArrowRight")
    chosen = pair.locator("#text [aria-selected=true]").evaluate_all("all => all.map(e => e.dataset.token)")
    assert len(chosen) == 2
    assert chosen[0] == chosen[1]


def test_both_histograms_of_passes_have_the_same_axis(open_file, traces, tmp_path):
    first, second = made_up_trace(), made_up_trace()
    second["arrays"]["pass_ratio"] = first["arrays"]["pass_ratio"] * 3
    page = open_file(write_made_up(tmp_path / "two.html", first, second))
    ticks = page.locator(".passes svg").evaluate_all(
        "charts => charts.map(chart => [...chart.querySelectorAll('text')].map(text => text.textContent)"
        ".filter(text => text.endsWith('\u00d7')))"
    )
    assert len(ticks) == 2
    assert ticks[0] == ticks[1] != []
    half = page.locator(".passes .mark:first-of-type").evaluate_all(
        "lines => lines.map(line => +line.getAttribute('x1'))"
    )
    assert half[0] < half[1]
