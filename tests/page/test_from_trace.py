"""From a routing trace to the screen: what `headgate report` writes shows the trace that it was given."""

import torch

import headgate
from headgate.observe.page.build import make_page
from headgate.observe.page.document import write_page
from traces import random_trace


def show(open_file, path, *traces):
    write_page(path, make_page(*traces))
    return open_file(path)


def lit(page, part="body"):
    windows = page.locator(f'{part} [data-state="lit"]')
    return set(windows.evaluate_all("all => all.map(e => +e.dataset.expert)"))


def kept(trace, layer, token):
    ids = trace.topk_ids[layer, token]
    return set(ids[~trace.is_dropped[layer, token]].tolist())


def test_counts_chips_and_the_walk(open_file, tmp_path):
    trace = random_trace(lengths=(30, 40), token_strings={str(token): f" word{token}" for token in range(50)})
    page = show(open_file, tmp_path / "page.html", trace)
    page.locator(".canvas-frame").focus()
    page.keyboard.press("PageUp")
    page.keyboard.press("Home")
    for expert in range(trace.num_experts):
        assert f"Layer 1, expert {expert}: {trace.counts[0, expert]} rows" in page.locator(".readout").inner_text()
        page.keyboard.press("ArrowRight")
    page.locator("#text select").nth(1).select_option(index=2)
    for token, text in page.locator("#text .chip").evaluate_all("all => all.map(e => [+e.dataset.token, e.innerText])"):
        assert text == f" word{trace.token_ids[token]}{trace.topk_ids[2, token, 0]}"
    token = int(page.locator(".picked").inner_text().split()[1])
    page.locator("#walk").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert lit(page) == kept(trace, 2, token)


def test_two_traces_side_by_side(open_file, tmp_path):
    traces = [random_trace(lengths=(40,), seed=seed, drop=0) for seed in (0, 1)]
    traces[1] = headgate.observe.trace.RoutingTrace(
        **{name: getattr(traces[1], name) for name in traces[1].__slots__} | {"token_ids": traces[0].token_ids}
    )
    page = show(open_file, tmp_path / "page.html", *traces)
    token = int(page.locator(".picked").inner_text().split()[1])
    layer = int(page.locator("#walk select").input_value())
    page.locator("#walk").focus()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    for side, trace in enumerate(traces):
        assert lit(page, f'#walk [data-side="{side}"]') == set(trace.topk_ids[layer, token].tolist())


def test_a_layer_that_was_tapped_shows_all_scores(open_file, tmp_path):
    torch.manual_seed(0)
    layer = headgate.MoE.from_family("deepseek_v3", d_model=16, d_ff=8, num_experts=16, top_k=4)
    with headgate.tap(layer) as tape:
        layer(torch.randn(1, 20, 16))
    trace = headgate.trace_of(layer, tape, token_ids=torch.arange(20), with_logits=True)
    page = show(open_file, tmp_path / "page.html", trace)
    token = int(page.locator(".picked").inner_text().split()[1])
    page.locator("#walk").focus()
    page.keyboard.press("ArrowRight")
    rows = [row.locator("td").all_inner_texts() for row in page.locator(".scores tbody tr").all()]
    assert {int(row[1]) for row in rows[:4]} == set(trace.topk_ids[0, token].tolist())
    assert page.locator(".chart .bar").count() == 16
