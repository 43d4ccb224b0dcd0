import html.parser
import re

import pytest

from headgate.errors import ArtifactError
from headgate.observe.page.build import make_page
from headgate.observe.page.document import is_page, render_page, write_page
from page_reader import read_page
from traces import random_trace

HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    "\u2028\ud800\x00\x1b[2J",
    '" onmouseover="alert(1)',
    "]]>&lt;",
]


def hostile_page():
    strings = {str(number): HOSTILE[number % len(HOSTILE)] for number in range(50)}
    return make_page(random_trace(token_strings=strings, model=HOSTILE[0]), title=HOSTILE[0], names=(HOSTILE[0], ""))


class Elements(html.parser.HTMLParser):
    """Every element of a page, by tag and attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, tuple(attrs)))


def test_hostile_text_adds_nothing_to_the_html():
    page = render_page(hostile_page()).decode()
    plain = render_page(make_page(random_trace())).decode()
    assert Elements(page).found == Elements(plain).found
    assert "onerror=alert" not in page
    assert "\u2028" not in page


def test_the_data_comes_back():
    found = read_page(render_page(hostile_page()))
    assert found["title"] == HOSTILE[0]
    assert set(found["traces"][0]["strings"]) <= set(HOSTILE)
    assert found["traces"][0]["provenance"][0] == ["model", HOSTILE[0]]


def test_the_page_loads_nothing():
    page = render_page(make_page(random_trace())).decode()
    policy = re.search(r'http-equiv="?content-security-policy"? content="([^"]*)"', page, re.I)[1]
    assert "default-src 'none'" in policy
    assert not re.search(r"connect-src (?!'none')", policy)
    assert not [tag for tag, attrs in Elements(page).found if {"src", "href"} & dict(attrs).keys() and tag != "a"]


def test_the_same_trace_gives_the_same_bytes():
    assert render_page(make_page(random_trace())) == render_page(make_page(random_trace()))


def test_a_page_is_written_and_replaced(tmp_path):
    path = tmp_path / "page.html"
    first = write_page(path, make_page(random_trace()))
    assert (first.path, first.num_bytes, first.is_replacement) == (path, path.stat().st_size, False)
    second = write_page(path, make_page(random_trace(), title="another"))
    assert second.is_replacement
    assert read_page(path.read_bytes())["title"] == "another"
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("content", [b"", b"<!doctype html><title>A thesis</title>", b"\x00" * 100])
def test_what_is_no_page_stays(tmp_path, content):
    path = tmp_path / "page.html"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"page\.html exists and is no page of Headgate, so it stays; choose anoth"):
        write_page(path, make_page(random_trace()))
    assert path.read_bytes() == content


def test_a_folder_is_no_page(tmp_path):
    assert not is_page(tmp_path)
    with pytest.raises(ArtifactError, match="so it stays"):
        write_page(tmp_path, make_page(random_trace()))


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ArtifactError, match=r"can't write .*: No such file or directory; check the path and the disk"):
        write_page(tmp_path / "nowhere" / "page.html", make_page(random_trace()))
