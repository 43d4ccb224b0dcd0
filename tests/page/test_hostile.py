"""Text from a trace is text, whatever it says."""

from made_up_page import HOSTILE, made_up_trace, write_made_up


def test_hostile_tokens_are_shown_and_do_not_run(open_file, tmp_path):
    trace = made_up_trace(strings=HOSTILE, name=HOSTILE[0])
    trace["provenance"].append(["notes", HOSTILE[0]])
    trace["verdict"]["sentence"] = trace["note"] = HOSTILE[0]
    page = open_file(write_made_up(tmp_path / "hostile.html", trace, title=HOSTILE[0]))
    assert page.title() == HOSTILE[0]
    assert page.locator("h1").inner_text() == HOSTILE[0]
    texts = set(page.locator("#text .chip bdi").all_inner_texts())
    assert HOSTILE[0] in texts
    assert "<b>bold</b>" in texts
    assert "‹202E›evil" in texts
    page.locator("#walk").focus()
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    assert page.locator("img, #page b:text('bold')").count() == 0
    assert page.evaluate("window.hacked") is None


def test_an_injected_script_would_not_run_either(browser, trace_file, tmp_path):
    """The policy is the second wall: even markup that got into the file is not carried out."""
    html = trace_file.read_text(encoding="utf-8").replace("</body>", "<script>window.hacked = 1</script></body>")
    path = tmp_path / "injected.html"
    path.write_text(html, encoding="utf-8")
    page = browser.new_page()
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(path.as_uri())
    page.wait_for_selector(".verdict")
    assert page.evaluate("window.hacked") is None
    assert len(complaints) == 1
    assert "Content Security Policy" in complaints[0]
    page.close()
