"""The walk: by keyboard from the first step to the last, with the trace's numbers at each."""

import numpy as np
import pytest

from made_up_page import made_up_trace, write_made_up

STEPS = ["Token in", "Router scores", "Pick top-k", "Experts run", "In parallel", "Combine"]


@pytest.fixture
def place(page):
    """The page, its layer's row and its token."""
    token = int(page.locator(".picked").inner_text().split()[1])
    return int(page.locator("#walk select").input_value()), token


def go_to(page, step):
    page.locator("#walk").focus()
    for _ in range(step):
        page.keyboard.press("ArrowRight")


def states(page, state):
    return set(page.locator(f'.windows [data-state="{state}"]').evaluate_all("all => all.map(e => +e.dataset.expert)"))


def table(page):
    return [row.locator("td").all_inner_texts() for row in page.locator(".scores tbody tr").all()]


def test_the_arrow_keys_lead_to_the_last_step_and_back(page):
    page.locator("#walk").focus()
    for step, name in enumerate(STEPS):
        assert page.locator("[aria-current=step]").inner_text() == f"{step + 1} {name}"
        assert page.locator("#walk .sentence").first.inner_text().endswith(".")
        page.keyboard.press("ArrowRight")
    assert page.locator("[aria-current=step]").inner_text() == "6 Combine"
    for _ in range(6):
        page.keyboard.press("ArrowLeft")
    assert page.locator("[aria-current=step]").inner_text() == "1 Token in"


def test_it_can_be_walked_with_nothing_but_the_tab_and_enter_keys(page):
    page.get_by_role("button", name="next →").focus()
    for _ in range(5):
        page.keyboard.press("Enter")
    assert page.locator("[aria-current=step]").inner_text() == "6 Combine"


def test_arrow_keys_in_the_layer_list_are_its_own(page):
    page.locator("#walk select").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("[aria-current=step]").inner_text() == "1 Token in"


def test_token_in(page, trace, place):
    _, token = place
    word = trace["strings"][trace["arrays"]["token_text"][token]]
    assert page.locator("mark").inner_text() == word.strip()
    assert "the router sees this token alone" in page.locator("#walk .sentence").inner_text()
    assert page.locator(".details dd").all_inner_texts() == [
        str(trace["arrays"]["token_ids"][token]),
        str(trace["arrays"]["position"][token]),
        ("prompt", "generated")[trace["arrays"]["phase"][token]],
        str(trace["arrays"]["forward_id"][token]),
    ]


def test_router_scores(page, trace, place):
    layer, token = place
    scores = trace["arrays"]["router_scores"][layer, token].astype(float)
    go_to(page, 1)
    order = np.argsort(-scores, kind="stable")
    assert table(page) == [[str(rank + 1), str(e), f"{scores[e]:.3f}"] for rank, e in enumerate(order[:4])]
    assert page.locator(".chart .bar").count() == 8
    assert page.locator(".chart .bar.in").count() == 2


def test_pick(page, trace, place):
    layer, token = place
    arrays = trace["arrays"]
    ids = arrays["topk_ids"][layer, token]
    go_to(page, 2)
    picks = [text.split() for text in page.locator(".picks li").all_inner_texts()]
    assert [int(words[1]) for words in picks] == list(ids)
    assert [words[3] for words in picks] == [f"{weight:.3f}" for weight in arrays["topk_weights"][layer, token]]
    assert states(page, "lit") == set(ids)
    assert states(page, "masked") == set(range(8)) - set(ids)
    assert (
        f"by {arrays['select_margin'][layer, token]:.3f}, expert {ids[-1]} over" in page.locator(".step").inner_text()
    )


def test_not_every_expert_votes(page, trace, place):
    layer, token = place
    ids = set(trace["arrays"]["topk_ids"][layer, token])
    go_to(page, 3)
    assert states(page, "idle") == set(range(8)) - ids
    sentence = page.locator("#walk .sentence").inner_text()
    assert sentence.startswith("Not every expert votes: 2 experts run for this token, and the other 6 stay dark")
    assert page.locator(".big").inner_text() == "75 % skipped"


def test_in_parallel(page, trace, place):
    layer, token = place
    arrays = trace["arrays"]
    together = np.flatnonzero(arrays["forward_id"] == arrays["forward_id"][token])
    is_kept = ~np.unpackbits(arrays["dropped"][layer, together], axis=-1, count=2, bitorder="little").astype(bool)
    rows = np.bincount(arrays["topk_ids"][layer, together][is_kept], minlength=8)
    go_to(page, 4)
    sentence = page.locator("#walk .sentence").inner_text()
    assert f"The {len(together)} tokens that ran together" in sentence
    assert f"expert {rows.argmax()}, with {rows.max()} rows, {rows.max() / rows.mean():.2f} ×" in sentence
    names = page.locator(".together dt").all_inner_texts()
    assert names == [f"expert {e}, {rows[e]} rows" for e in arrays["topk_ids"][layer, token]]


def test_combine(page, trace, place):
    layer, token = place
    arrays = trace["arrays"]
    go_to(page, 5)
    rows = zip(
        *(arrays[name][layer, token] for name in ("topk_ids", "topk_weights", "contribution_norms")), strict=True
    )
    assert table(page) == [[f"expert {e}", f"{weight:.3f}", f"{norm:.3f}"] for e, weight, norm in rows]
    words = page.locator(".step").inner_text()
    assert f"The weights add up to {arrays['topk_weights'][layer, token].astype(float).sum():.3f}." in words
    total = arrays["contribution_norms"][layer, token].astype(float).sum() + arrays["shared_norms"][layer, token]
    assert f"add up to {total:.3f}; the output’s length is {arrays['output_norms'][layer, token]:.3f}" in words
    assert "their sum matches the output to one part in 4.19 million." in words


def test_another_token_and_another_layer(page, trace):
    page.get_by_label("Next token").click()
    page.locator("#walk select").select_option(index=3)
    token = int(page.locator(".picked").inner_text().split()[1])
    go_to(page, 2)
    assert states(page, "lit") == set(trace["arrays"]["topk_ids"][3, token])


def test_a_biased_router_shows_both_scores_and_a_token_without_scores_says_so(open_file, tmp_path):
    trace = made_up_trace(is_biased=True, num_scored=100, num_experts=16, top_k=4)
    page = open_file(write_made_up(tmp_path / "biased.html", trace))
    token = int(page.locator(".picked").inner_text().split()[1])
    layer = int(page.locator("#walk select").input_value())
    ranked, raw = (trace["arrays"][name][layer, token].astype(float) for name in ("select_scores", "router_scores"))
    go_to(page, 1)
    order = np.argsort(-ranked, kind="stable")[:6]
    assert table(page) == [[str(n + 1), str(e), f"{raw[e]:.3f}", f"{ranked[e]:.3f}"] for n, e in enumerate(order)]
    assert page.locator(".chart .tick").count() == 16
    page.locator(".text-frame").focus()
    while token < 100:
        page.keyboard.press("ArrowRight")
        token += 1
    assert "not on the page" in page.locator(".step").inner_text()
    page.get_by_role("button", name="nearest token with all scores").click()
    assert page.locator(".picked").inner_text().startswith("token 99 ")
    assert page.locator(".chart .bar").count() == 16


def test_a_dropped_choice_is_named(open_file, tmp_path):
    trace = made_up_trace()
    trace["arrays"]["dropped"][:] = 0b10
    page = open_file(write_made_up(tmp_path / "dropped.html", trace))
    go_to(page, 3)
    assert "picked but full: this token was dropped there" in page.locator(".step").inner_text()
    assert len(states(page, "dropped")) == 1
    assert page.locator(".big").inner_text() == "88 % skipped"
