"""The report, read as a file and opened in a real browser."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from longrl.evaluation.report import report
from longrl.warehouse.artifacts import Warehouse
from tests.made_run import make_run

CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">'\"&"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a run whose captions, questions, rules and responses are hostile."""
    config, refs, warehouse = make_run(tmp_path_factory.mktemp("report"), count=8, held_out=4, caption=HOSTILE)
    return report(config, refs, warehouse, "run-1", minutes=12.5)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip("there is no /usr/bin/chromium")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    arguments += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, page):
    """The page in a tab, with all it said and asked for."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.said = []
    tab.on("console", lambda message: tab.said.append(message.text))
    tab.on("pageerror", lambda error: tab.said.append(str(error)))
    tab.on("request", lambda request: request.url.startswith(("file:", "data:")) or tab.said.append(request.url))
    tab.goto(page.as_uri())
    yield tab
    tab.close()


def test_the_folder_holds_page_and_summary_and_latest_points_to_it(page):
    assert sorted(path.name for path in page.parent.iterdir()) == ["index.html", "summary.json"]
    assert (page.parent.parent / "latest").resolve() == page.parent
    assert json.loads(page.with_name("summary.json").read_text())["run_id"] == "run-1"


def test_the_page_asks_for_nothing_outside_itself(page):
    text = page.read_text()
    addresses = [value for tag in tags(text) for name, value in tag[1] if name in ("src", "href", "action")]
    assert all(value.startswith(("data:", "#")) or value == "summary.json" for value in addresses)
    assert "url(" not in text
    assert "@import" not in text


def test_the_page_is_a_few_megabytes_at_most(page):
    assert page.stat().st_size < 4_000_000


def test_hostile_texts_are_shown_and_not_run(page):
    text = page.read_text()
    assert text.count("<script") == 1  # the page's own
    assert "&lt;script&gt;document.title" in text
    assert not any(tag == "img" and ("src", "x") in attributes for tag, attributes in tags(text))


def test_it_opens_in_a_browser_without_a_word(opened):
    assert opened.said == []
    assert "tiny" in opened.title()


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_sticks_out_at_any_width(opened, width):
    opened.set_viewport_size({"width": width, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth") == width


def test_every_thumbnail_is_a_picture(opened):
    opened.evaluate("document.querySelectorAll('img').forEach(img => img.loading = 'eager')")
    opened.wait_for_function("[...document.images].every(img => img.complete)")
    sizes = opened.evaluate("[...document.images].map(img => img.naturalWidth)")
    assert len(sizes) == 4 * 8
    assert min(sizes) > 20


def test_the_filters_find_what_rl_fixed(opened, page):
    opened.select_option("select[name=change]", "fixed")
    shown = opened.locator(".card:visible")
    fixed = opened.locator(".card[data-sft=wrong][data-rl=right]")
    assert shown.count() == fixed.count() > 0
    assert opened.locator("output").inner_text() == f"{fixed.count()} of 24 questions"


def test_filters_combine_and_clear(opened):
    opened.select_option("select[name=category]", "goal")
    opened.select_option("select[name=rl]", "wrong")
    both = opened.locator(".card:visible").count()
    assert both == opened.locator(".card[data-category=goal][data-rl=wrong]").count()
    opened.click("button[type=reset]")
    opened.wait_for_function("document.querySelector('output').textContent === '24 of 24 questions'")


def test_the_dark_form_is_dark(browser, page):
    tab = browser.new_page(color_scheme="dark")
    tab.goto(page.as_uri())
    red = int(re.search(r"\d+", tab.evaluate("getComputedStyle(document.body).backgroundColor")).group())
    tab.close()
    assert red < 60


@pytest.mark.parametrize("models", [(), ("base",), ("base", "sft")])
def test_a_run_without_rl_says_so(tmp_path, models):
    config, refs, warehouse = make_run(tmp_path, count=3, held_out=1, models=models)
    text = report(config, refs, warehouse, "run-2", minutes=1.0).read_text()
    assert ("not evaluated" if models else "no model has answered them yet") in text


def test_a_run_without_held_out_questions_says_so(tmp_path):
    config, refs, warehouse = make_run(tmp_path, count=3, held_out=0)
    text = report(config, refs, warehouse, "run-3", minutes=1.0).read_text()
    assert "No question was held out" in text
    assert "There are no held-out questions to show" in text


def test_a_run_that_stopped_after_ingest_has_a_report(tmp_path):
    config, refs, warehouse = make_run(tmp_path, count=3, held_out=1)
    text = report(config, {"ingest": refs["ingest"]}, warehouse, "run-4", minutes=1.0).read_text()
    assert "Nothing was trained" in text


def test_a_lost_film_is_shown_with_the_reason(tmp_path):
    config, refs, warehouse = make_run(tmp_path, count=3, held_out=1)
    for film in (tmp_path / "films").iterdir():
        film.unlink()
    assert "No pictures: the file is gone" in report(config, refs, warehouse, "run-5", minutes=1.0).read_text()


def test_a_cached_stage_is_marked(tmp_path):
    config, refs, warehouse = make_run(tmp_path, count=3, held_out=1)
    text = report(config, refs | {"rl": replace(refs["rl"], cached=True)}, warehouse, "run-6", minutes=1.0).read_text()
    assert text.count('<span class="tag">cached</span>') == sum(ref.cached for ref in refs.values()) + 1


def test_a_second_report_takes_over_latest_and_leaves_the_first(tmp_path):
    config, refs, warehouse = make_run(tmp_path, count=3, held_out=1)
    first = report(config, refs, warehouse, "run-7", minutes=1.0)
    second = report(config, refs, warehouse, "run-8", minutes=1.0)
    assert first.exists()
    assert (Warehouse(warehouse.root).root / "reports" / "latest").resolve() == second.parent
    names = {path.name for path in second.parent.parent.iterdir()}
    assert names == {"run-7", "run-8", "latest"}


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, attributes))


def tags(text: str) -> list[tuple[str, list[tuple[str, str]]]]:
    parser = Tags()
    parser.feed(text)
    return parser.found
