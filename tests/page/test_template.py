"""The template that ships: one file, small, with a policy that allows its own script and style and nothing else."""

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "src" / "headgate" / "observe" / "page" / "template.html"
HTML = TEMPLATE.read_text(encoding="utf-8")


def digest(text):
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_it_is_small_and_has_one_place_for_data():
    assert TEMPLATE.stat().st_size <= 300_000
    assert HTML.count('<script type="text/plain" id="headgate-data"></script>') == 1


@pytest.mark.parametrize(("tag", "directive"), [("script", "script-src"), ("style", "style-src")])
def test_the_policy_names_exactly_the_script_and_the_style_that_are_there(tag, directive):
    contents = re.findall(rf'<{tag}(?: type="module")?>(.*?)</{tag}>', HTML, re.S)
    assert len(contents) == 1
    assert f"{directive} '{digest(contents[0])}';" in HTML


def test_the_policy_forbids_all_else():
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', HTML)
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "connect-src" not in policy


def test_it_loads_nothing():
    markup = re.sub(r"<(script|style)[^>]*>.*?</\1>", "", HTML, flags=re.S)
    assert not re.search(r"\b(src|href|srcset)=", markup)
    style = re.search(r"<style>(.*?)</style>", HTML, re.S)[1]
    assert "url(" not in style
    assert "@import" not in style


def test_notices_of_what_it_holds_ship_beside_it():
    notices = (TEMPLATE.parent / "licenses.md").read_text(encoding="utf-8")
    for name in json.loads((ROOT / "web" / "package.json").read_text(encoding="utf-8"))["dependencies"]:
        assert f"## {name} - " in notices


def test_the_lock_file_pins_all_and_names_no_registry():
    lock = json.loads((ROOT / "web" / "package-lock.json").read_text(encoding="utf-8"))
    packages = [entry for path, entry in lock["packages"].items() if path]
    assert all("integrity" in entry and "resolved" not in entry for entry in packages)
