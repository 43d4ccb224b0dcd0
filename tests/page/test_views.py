"""Every view of a page, and its numbers against those of the trace."""

import re
from decimal import ROUND_HALF_UP, Decimal

import numpy as np

from made_up_page import WORDS, made_up_trace, write_made_up

SHOWN = {"\n": "↵"}


def times(value):
    return f"{value:.2f} ×"


def test_every_part_is_there(page):
    assert page.title() == "Made-up routing"
    parts = page.locator("main > section").evaluate_all("sections => sections.map(section => section.id)")
    assert parts == ["verdict", "map", "text", "walk", "experts", "size", "limits"]
    assert page.locator("nav a").all_inner_texts() == ["Verdict", "Map", "Text", "Walk", "Experts", "Size", "Limits"]


def test_the_verdict_comes_first_with_its_layers_on_demand(page, trace):
    assert trace["verdict"]["sentence"] in page.locator(".verdict-sentence").inner_text()
    figures = page.locator(".figures dd").all_inner_texts()
    assert figures == ["240", "4", "2 of 8", "75 %"]
    assert not page.locator(".layers").is_visible()
    page.locator("summary").click()
    rows = page.locator(".layers tbody tr")
    assert rows.count() == 4
    for row, layer in zip(rows.all(), trace["layers"], strict=True):
        cells = row.locator("th, td").all_inner_texts()
        assert cells[0] == str(layer["index"])
        assert layer["verdict"]["status"] in cells[1]
        assert cells[2] == times(layer["max_over_mean"])
        assert cells[3] == str(layer["dead"])


def test_provenance_and_limits(page, trace):
    values = dict(trace["provenance"])
    assert page.locator("footer dt").all_inner_texts() == list(values)
    assert page.locator("footer dd").all_inner_texts() == [str(value) for value in values.values()]
    assert page.locator(".limits li").all_inner_texts() == trace["not_shown"]


def test_the_map_tells_each_cell_by_keyboard(page, trace):
    counts = trace["arrays"]["counts"]
    page.locator(".canvas-frame").focus()
    page.keyboard.press("PageUp")
    page.keyboard.press("Home")
    for layer in range(len(counts)):
        for expert in range(counts.shape[1]):
            rows = counts[layer, expert]
            share = f"{rows:,.0f} rows, {times(rows / counts[layer].mean())} an even share."
            assert page.locator(".readout").inner_text() == f"Layer {layer}, expert {expert}: {share}"
            page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Home")


def test_the_map_tells_the_cell_under_the_pointer_and_a_click_chooses_it(page):
    frame = page.locator(".canvas-frame")
    box = frame.bounding_box()
    frame.hover(position={"x": 32, "y": box["height"] - 12})
    assert page.locator(".readout").inner_text().startswith("Layer 3, expert 0:")
    frame.click(position={"x": 32, "y": box["height"] - 12})
    assert page.locator("#experts select").input_value() == "3"
    assert page.locator("#experts [aria-pressed=true]").inner_text() == "0"


def test_the_busiest_first(page, trace):
    page.get_by_label("busiest first").check()
    page.locator(".canvas-frame").focus()
    page.keyboard.press("PageUp")
    page.keyboard.press("Home")
    busiest = trace["arrays"]["counts"][0].argmax()
    assert f"Layer 0, expert {busiest}:" in page.locator(".readout").inner_text()


def test_single_passes(page, trace):
    page.locator("#text select").nth(1).select_option(index=1)
    ratios = trace["arrays"]["pass_ratio"][1].astype(float)
    caption = page.locator(".passes figcaption").inner_text()
    assert f"In half of {len(ratios)} passes" in caption
    assert times(np.quantile(ratios, 0.5)) in caption
    assert times(np.quantile(ratios, 0.95)) in caption


def score(value):
    """Three decimals; a tie, which half precision has often, goes up as in the browser."""
    return Decimal(float(value)).quantize(Decimal("0.001"), ROUND_HALF_UP)


QUANTITIES = {
    "first": lambda arrays, layer, token: f"first expert {arrays['topk_ids'][layer, token, 0]}",
    "weight": lambda arrays, layer, token: f"weight {score(arrays['topk_weights'][layer, token, 0])}",
    "margin": lambda arrays, layer, token: f"margin {score(arrays['select_margin'][layer, token])}",
    "entropy": lambda arrays, layer, token: f"entropy {score(arrays['router_entropy'][layer, token])}",
    "dropped": lambda arrays, layer, token: (
        f"{int(arrays['dropped'][layer, token, 0]).bit_count()} of 2 choices dropped"
    ),
}


def test_chips_have_the_numbers_of_the_trace(page, trace):
    page.locator("#text select").nth(1).select_option(index=2)
    page.locator(".text-frame").evaluate("frame => frame.scrollTop = 0")
    for name, expected in QUANTITIES.items():
        page.get_by_label("coloured by").select_option(name)
        chips = page.locator("#text .chip")
        shown = chips.evaluate_all("chips => chips.map(chip => [+chip.dataset.token, chip.title, chip.innerText])")
        assert len(shown) > 50
        for token, title, text in shown:
            # Below a thousandth the page writes powers of ten.
            assert title == expected(trace["arrays"], 2, token) or re.search(r" \d\.\d*e-\d$| \de-\d$", title)
            word = trace["strings"][trace["arrays"]["token_text"][token]]
            assert text.strip().startswith(SHOWN.get(word, word).strip())


def test_one_expert_across_layers(page, trace):
    page.get_by_label("coloured by").select_option("expert")
    page.locator("#text").get_by_label("expert", exact=True).fill("3")
    chosen = (trace["arrays"]["topk_ids"] == 3).any(-1).sum(0)
    titles = page.locator("#text .chip").evaluate_all("chips => chips.map(chip => [+chip.dataset.token, chip.title])")
    assert [title for _, title in titles] == [f"expert 3 in {chosen[token]} of 4 layers" for token, _ in titles]


def test_search_goes_from_one_to_the_next(page, trace):
    text = trace["arrays"]["token_text"]
    found = np.flatnonzero(text == WORDS.index(" irrigation"))
    page.get_by_label("find").fill("IRRIGATION")
    assert page.locator(".search [aria-live]").inner_text().endswith(f"{len(found)} found")
    here = int(page.locator("#text [aria-selected=true]").get_attribute("data-token"))
    page.get_by_label("find").press("Enter")
    after = [token for token in found if token > here]
    expected = after[0] if after else found[0]
    assert page.locator("#text [aria-selected=true]").get_attribute("data-token") == str(expected)
    page.get_by_label("find").fill("nowhere")
    assert page.locator(".search [aria-live]").inner_text() == "not found"


def test_keys_walk_through_the_text_and_the_walk_follows(page):
    page.locator(".text-frame").focus()
    before = int(page.locator("#text [aria-selected=true]").get_attribute("data-token"))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    active = page.locator(".text-frame").get_attribute("aria-activedescendant")
    assert page.locator(f'[id="{active}"]').get_attribute("data-token") == str(before + 1)
    assert page.locator(".picked").inner_text().startswith(f"token {before + 1} ")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowRight")
    assert page.locator("[aria-current=step]").inner_text() == "2 Router scores"


def test_experts_have_their_tokens_partners_and_load(page, trace):
    page.locator("#experts select").select_option(index=1)
    arrays = trace["arrays"]
    assert page.locator("#experts tbody tr").count() == 8
    row = page.locator("#experts tbody tr").first
    expert = int(row.locator("th").inner_text())
    counts = arrays["counts"][1]
    assert expert == counts.argmax()
    cells = row.locator("td").all_inner_texts()
    assert cells[0] == f"{times(counts[expert] / counts.mean())} {counts[expert]:,.0f} rows"
    word = trace["strings"][arrays["top_tokens"][1, expert, 0]]
    lift = f"{arrays['top_token_lift'][1, expert, 0]:.1f}×"
    assert row.locator(".chip").first.inner_text().strip() == SHOWN.get(word, word).strip() + lift
    partner = row.locator(".partner").first.inner_text()
    assert partner.split("\n")[0].startswith(str(arrays["partners"][1, expert, 0]))
    assert "0.410 nats" in page.locator("#experts p").nth(1).inner_text()


def test_an_expert_chosen_there_colours_the_text(page):
    page.locator("#experts tbody button").first.click()
    assert page.get_by_label("coloured by").input_value() == "expert"


def test_size(page, trace):
    size = trace["size"]
    words = page.locator("#size").inner_text()
    assert size["sentence"] in words
    assert f"24 million ({100 * 24 / 37:.0f} %)" in words
    rows = page.locator(".touched tbody tr")
    assert rows.nth(0).locator("td").all_inner_texts() == ["8 of 32", "16 MB"]


def test_a_trace_of_counts_alone_has_no_tokens_to_show(open_file, tmp_path):
    bare = made_up_trace()
    kept = {"counts": bare["arrays"]["counts"], "topk_ids": bare["arrays"]["topk_ids"][:, :0]}
    bare = {**bare, "arrays": kept, "size": None}
    page = open_file(write_made_up(tmp_path / "bare.html", bare))
    assert page.locator("nav a").all_inner_texts() == ["Verdict", "Map", "Limits"]


def test_a_trace_with_only_what_is_required(open_file, tmp_path):
    whole = made_up_trace()
    required = ("counts", "topk_ids", "token_text", "seq_offsets")
    bare = {**whole, "arrays": {name: whole["arrays"][name] for name in required}}
    page = open_file(write_made_up(tmp_path / "bare.html", bare))
    options = page.get_by_label("coloured by").locator("option").all_inner_texts()
    assert options == ["first expert", "one expert across layers"]
    for _ in range(5):
        page.get_by_role("button", name="next →").click()
        assert page.locator("#walk .sentence").inner_text()
    assert "not recorded" in page.locator(".step").inner_text()


def test_a_narrow_screen_has_nothing_beside_it(open_file, trace_file):
    page = open_file(trace_file, viewport={"width": 390, "height": 800})
    for _ in range(6):
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.get_by_role("button", name="next →").click(force=True)


def test_print_is_light_and_has_the_text_from_its_beginning_and_all_six_steps(open_file, trace_file):
    page = open_file(trace_file, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    page.wait_for_function("() => document.querySelector('.text-frame').style.height === 'auto'")
    assert page.locator("#text .chip").first.get_attribute("data-token") == "0"
    assert page.locator("#text .chip").count() == 240
    assert not page.locator(".turn").is_visible()
    assert page.locator("#walk .sentence").count() == 6
    assert page.locator(".page").evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(255, 255, 255)"


def test_on_a_narrow_screen_every_link_is_in_sight_and_beside_the_choice_of_colours(open_file, trace_file):
    page = open_file(trace_file, viewport={"width": 390, "height": 800})
    links = [link.bounding_box() for link in page.locator(".top nav a").all()]
    select = page.locator(".theme select").bounding_box()
    assert len(links) == 7
    for link in links:
        assert link["x"] >= 0
        assert link["x"] + link["width"] <= 390
        assert link["y"] + link["height"] <= select["y"] or link["x"] + link["width"] <= select["x"]


def test_the_speed_of_a_device_is_drawn_and_said(open_file, tmp_path):
    trace = made_up_trace()
    rows = [[1, 100.0, 10e9, "memory"], [2, 190.0, 11e9, "memory"], [4, 350.0, 17e9, "arithmetic"]]
    trace["speed"] = {
        "model": "<b>m</b>",
        "device": "a device",
        "context": 4096,
        "memory_bytes": 16e9,
        "by_batch": rows,
    }
    page = open_file(write_made_up(tmp_path / "one.html", trace))
    speed = page.locator(".speed")
    assert speed.locator(".sentence").inner_text() == (
        "On a device, 2 sequences at once of 4,096 tokens give at most 190 tokens a second."
    )
    assert speed.locator(".dot").count() == 2 * len(rows)
    assert speed.locator("tbody tr").last.inner_text().split("\t") == ["4", "350", "17 GB, does not fit", "arithmetic"]
    assert "<b>m</b>" in speed.inner_text()


def test_a_device_that_holds_no_batch_is_named(open_file, tmp_path):
    trace = made_up_trace()
    row = [1, 100.0, 10e9, "memory"]
    trace["speed"] = {"model": "m", "device": "a phone", "context": 1, "memory_bytes": 1e9, "by_batch": [row]}
    page = open_file(write_made_up(tmp_path / "one.html", trace))
    assert page.locator(".speed .sentence").inner_text() == "a phone does not hold this model."
