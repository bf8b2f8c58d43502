"""Every page in Chromium: nothing missing, nothing from elsewhere, readable on a phone and on paper, and it works."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from made_pages import write_pages
from playwright.sync_api import Browser, Locator, Page, sync_playwright

pytestmark = [pytest.mark.browser]

KINDS = ("report", "report of a fit", "external", "index", "patient", "viewer", "status")
READ = tuple(kind for kind in KINDS if kind != "viewer")
"""Pages to be read and printed; the viewer fills the window."""

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PAPER = {"width": 680, "height": 970}
"""A4 less its margins, px."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, started once: Playwright's own where it is installed, else that of the machine."""
    with sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        names = ("chromium", "chromium-browser", "google-chrome")
        found = str(own) if own.is_file() else next(filter(None, map(shutil.which, names)), None)
        if found is None:
            pytest.skip("no Chromium: install it, or run `playwright install chromium`")
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind of page → file; made only where there is a browser."""
    return write_pages(tmp_path_factory.mktemp("pages"))


Opener = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser, pages: dict[str, Path]) -> Iterator[Opener]:
    """Opens a page, by its kind or file, in a window of its own."""
    contexts = []

    def open_page(page: str | Path, size: dict[str, int] = DESKTOP, **options: Any) -> Page:
        context = browser.new_context(viewport=size, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.complaints = []
        tab.on("console", lambda message: tab.complaints.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: tab.complaints.append(f"error: {error}"))
        tab.on("request", lambda request: tab.complaints.append(f"request: {request.url}")
               if not allowed(request.url, file) else None)  # fmt: skip
        tab.on("requestfailed", lambda request: tab.complaints.append(f"failed: {request.url}"))
        file = pages[page] if isinstance(page, str) else page
        tab.goto(file.as_uri())
        return tab

    yield open_page
    for context in contexts:
        context.close()


def allowed(url: str, file: Path) -> bool:
    """Whether an address is inside the page, or a file beside or below it."""
    return url.startswith("data:") or local(url).is_relative_to(file.parent)


def local(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


def load_pictures(tab: Page) -> None:
    tab.evaluate("""async () => {
      for (const image of document.images) { image.loading = "eager"; await image.decode(); }
    }""")


# --- what holds for every page ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_page__loads_nothing_from_elsewhere_and_nothing_fails(opened: Opener, kind: str) -> None:
    tab = opened(kind)
    load_pictures(tab)
    tab.mouse.wheel(0, 5000)
    tab.wait_for_timeout(100)
    assert tab.complaints == []


@pytest.mark.parametrize("kind", KINDS)
def test_page__runs_only_its_own_scripts(opened: Opener, pages: dict[str, Path], kind: str, tmp_path: Path) -> None:
    text = pages[kind].read_text(encoding="utf-8")
    assert text.count("</body>") == 1
    page = tmp_path / "page.html"
    page.write_text(text.replace("</body>", "<script>document.title = 'taken over'</script></body>"), encoding="utf-8")
    tab = opened(page)
    assert tab.title() != "taken over"
    assert any("Content Security Policy" in complaint for complaint in tab.complaints)


@pytest.mark.parametrize("kind", READ)
def test_page__draws_every_figure_and_says_what_it_shows(opened: Opener, kind: str) -> None:
    tab = opened(kind)
    load_pictures(tab)
    tab.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    figures = tab.evaluate("""() => Array.from(document.querySelectorAll("figure"), (figure) => {
      const box = figure.getBoundingClientRect(), wide = (part) => part.getBoundingClientRect().width;
      const image = figure.querySelector("img:not(td img)"), svg = figure.querySelector("svg");
      return {
        caption: figure.querySelector("figcaption")?.textContent.trim() ?? "",
        size: [box.width, box.height],
        image: image && [image.naturalWidth, wide(image), image.getAttribute("alt")],
        svg: svg && [svg.querySelectorAll("path, use").length, wide(svg), svg.getAttribute("aria-label")],
        rows: figure.querySelectorAll("tr").length,
      };
    })""")
    assert figures
    numbers = {"Figure": [0], "Table": [0]}
    for figure in figures:
        assert len(figure["caption"]) > (5 if kind == "status" else 20), figure
        assert min(figure["size"]) > 20, figure
        if numbered := re.match(r"(Figure|Table) (\d+)\. \S", figure["caption"]):
            numbers[numbered[1]].append(int(numbered[2]))
        for drawn in (figure["image"], figure["svg"]):
            if drawn is not None:
                parts, width, name = drawn
                assert parts > 5 and width > 30 and len(name) > 5, figure
        assert figure["image"] or figure["svg"] or figure["rows"] > 1, figure
    for found in numbers.values():
        assert found == list(range(len(found)))
    assert sum(len(found) - 1 for found in numbers.values()) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_page__headings_step_down_one_at_a_time(opened: Opener, kind: str) -> None:
    tab = opened(kind)
    levels = tab.evaluate("Array.from(document.querySelectorAll('h1, h2, h3, h4'), (h) => Number(h.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert "mumo" in tab.title()


@pytest.mark.parametrize("kind", KINDS)
def test_page__every_link_leads_somewhere(opened: Opener, kind: str) -> None:
    tab = opened(kind)
    links = tab.evaluate("Array.from(document.querySelectorAll('a'), (a) => [a.href, a.textContent.trim()])")
    assert links
    here = local(tab.url)
    for address, _ in links:
        target, anchor = local(address), urlsplit(address).fragment
        assert target.is_file(), address
        if anchor:
            assert target == here
            assert tab.locator(f"[id='{anchor}']").count() == 1, address
    entries = tab.locator(".contents a")
    sections = tab.locator("main > section[id]")
    if kind in READ:
        assert entries.count() == sections.count() > 1


@pytest.mark.parametrize("kind", KINDS)
def test_page__breaks_no_rule_of_accessibility(opened: Opener, kind: str) -> None:
    tab = opened(kind, bypass_csp=True)
    load_pictures(tab)
    for size in (DESKTOP, PHONE):  # on a phone more regions scroll
        tab.set_viewport_size(size)
        assert (results := Axe().run(tab)).violations_count == 0, results.generate_report()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("folded", [True, False])
def test_page__fits_a_phone(opened: Opener, kind: str, folded: bool) -> None:
    tab = opened(kind, PHONE, is_mobile=True, has_touch=True)
    load_pictures(tab)
    if not folded:
        tab.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    assert tab.evaluate("document.scrollingElement.scrollWidth <= innerWidth && innerWidth === 390")
    wide = tab.evaluate("""Array.from(document.querySelectorAll("table, svg, img, canvas"), (part) => {
      const box = part.closest(".scroll") ?? part, style = getComputedStyle(box);
      return [part.tagName, box.getBoundingClientRect().right, box === part || style.overflowX === "auto"];
    })""")
    assert all(right <= 390 and scrolls for _, right, scrolls in wide), wide
    spilling = tab.evaluate("""Array.from(document.querySelectorAll("th, td, dt, dd, li, summary"))
      .filter((part) => part.scrollWidth > part.clientWidth + 1).map((part) => part.textContent.trim())""")
    assert spilling == []
    smallest = tab.evaluate("""Math.min(...Array.from(document.querySelectorAll("p, li, td, th, dd, figcaption"),
      (part) => parseFloat(getComputedStyle(part).fontSize)))""")
    assert smallest >= 12


BROKEN_WORDS = """
() => {
    const found = [];
    for (const cell of document.querySelectorAll(":is(table:not(.wrap), .steps) :is(td, th)")) {
        const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
        while (walker.nextNode()) {
            for (const match of walker.currentNode.data.matchAll(/\\p{L}{3,16}/gu)) {
                const range = document.createRange();
                range.setStart(walker.currentNode, match.index);
                range.setEnd(walker.currentNode, match.index + match[0].length);
                const lines = new Set([...range.getClientRects()].map(box => Math.round(box.top)));
                if (lines.size > 1) found.push(match[0]);
            }
        }
    }
    return found;
}
"""
"""Words of at most 16 letters that run over more than one line, in tables but those of settings, with long names."""


@pytest.mark.parametrize("kind", READ)
def test_page__breaks_no_words_on_a_phone(opened: Opener, kind: str) -> None:
    assert opened(kind, PHONE).evaluate(BROKEN_WORDS) == []


@pytest.mark.parametrize("kind", READ)
def test_page__prints_without_cutting_figures_or_tables(opened: Opener, kind: str) -> None:
    tab = opened(kind)
    load_pictures(tab)
    assert re.search(rb"/Type\s*/Pages\s[^>]*/Count [1-9]|/Count [1-9]\d*", tab.pdf(format="A4"))
    tab.set_viewport_size(PAPER)
    tab.emulate_media(media="print")
    parts = tab.evaluate("""Array.from(document.querySelectorAll("figure"), (figure) => {
      const box = figure.getBoundingClientRect(), inside = figure.querySelectorAll("table, td, th, img, svg");
      const inner = Math.max(...Array.from(inside, (part) => part.getBoundingClientRect().right));
      return {
        table: figure.classList.contains("table"), rows: figure.querySelectorAll("tr").length, height: box.height,
        right: Math.max(box.right, inner), breaks: getComputedStyle(figure).breakInside,
        caption: figure.querySelector("figcaption").textContent.trim().slice(0, 60),
      };
    })""")
    assert parts
    for part in parts:
        assert part["right"] <= PAPER["width"] + 1, part
        if not part["table"]:
            assert part["breaks"] == "avoid" and part["height"] < PAPER["height"], part
    assert tab.evaluate("""Array.from(document.querySelectorAll("details > *"), (part) => part.checkVisibility(
      { contentVisibilityAuto: true, opacityProperty: true, visibilityProperty: true })).every(Boolean)""")


def test_contents__stay_in_view_beside_the_text(opened: Opener) -> None:
    tab = opened("report")
    tab.locator(".contents a", has_text="Limits").click()
    assert tab.evaluate("scrollY") > 1000
    assert tab.locator("#limits h2").bounding_box()["y"] < 200
    assert tab.locator(".contents a", has_text="Summary").bounding_box()["y"] >= 0


# --- sorting ----------------------------------------------------------------------------------------------


def column(table: Locator, place: int) -> list[str]:
    return table.evaluate(
        "(table, place) => Array.from(table.tBodies[0].rows, (row) => row.cells[place].textContent.trim())", place
    )


def number(text: str) -> float:
    return float(text.rstrip("+").replace("−", "-"))


def sorting(table: Locator) -> list[str | None]:
    return table.evaluate("(table) => Array.from(table.tHead.rows[0].cells, (cell) => cell.getAttribute('aria-sort'))")


def test_sorting__of_patients_by_number_by_text_and_with_unknown_values_last(opened: Opener) -> None:
    table = opened("report").locator("details[open] table.sortable")
    names = ("Patient", "Centre", "Imaging", "Probability", "Prediction", "Label", "Risk", "PFS", "OS")
    heads = {name: (place, table.locator("thead button", has_text=name)) for place, name in enumerate(names)}
    everyone = sorted(column(table, 0))
    for name in ("Risk", "Probability"):
        place, head = heads[name]
        head.click()
        up = [number(text) for text in column(table, place)]
        assert up == sorted(up) and min(up) < max(up)
        assert sorting(table) == [("ascending" if i == place else None) for i in range(9)]
        head.click()
        assert [number(text) for text in column(table, place)] == up[::-1]
        assert sorting(table)[place] == "descending"
    place, head = heads["PFS"]
    for reverse in (False, True):
        head.click()
        found = column(table, place)
        unknown = found.count("–")
        assert 0 < unknown < len(found) and found[-unknown:] == ["–"] * unknown
        days = [number(text) for text in found[:-unknown]]
        assert days == sorted(days, reverse=reverse) and max(days) > 1000  # as numbers: "999" < "1073"
    for name in ("Patient", "Imaging"):
        place, head = heads[name]
        head.click()
        assert column(table, place) == sorted(column(table, place))
    assert sorted(column(table, 0)) == everyone


def test_sorting__by_keyboard(opened: Opener) -> None:
    tab = opened("report")
    table = tab.locator("details[open] table.sortable")
    table.locator("thead button", has_text="Patient").focus()
    tab.keyboard.press("Enter")
    assert sorting(table)[0] == "ascending" and column(table, 0) == sorted(column(table, 0))
    tab.keyboard.press("Space")
    assert sorting(table)[0] == "descending" and column(table, 0) == sorted(column(table, 0), reverse=True)
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert sorting(table)[:2] == [None, "ascending"] and column(table, 1) == sorted(column(table, 1))


def test_sorting__of_explained_patients_starts_with_the_highest_risk(opened: Opener) -> None:
    table = opened("index").locator("table.sortable")
    risks = [number(text) for text in column(table, 2)]
    assert risks == sorted(risks, reverse=True) and sorting(table)[2] == "descending"
    table.locator("thead button", has_text="Risk").click()
    assert [number(text) for text in column(table, 2)] == risks[::-1]
    table.locator("thead button", has_text="Largest effect").click()
    effects = column(table, 8)
    known = [number(text) for text in effects if text != "–"]
    assert effects[len(known):] == ["–"] * (len(effects) - len(known))  # fmt: skip
    assert known == sorted(known) and 1 < len(known) < len(effects)


def test_status__names_of_failed_items_are_not_broken(opened: Opener) -> None:
    tab = opened("status")
    tab.set_viewport_size({"width": 640, "height": 800})
    lines = """row => {
        row.children[0].textContent = "windows";
        row.children[1].textContent = "ct-" + "ABCDEFGH".repeat(8);
        row.children[2].textContent = "ImageError: " + "a long reason ".repeat(30);
        return [...row.children].map(cell => {
            const text = document.createRange();
            text.selectNodeContents(cell);
            return new Set([...text.getClientRects()].map(line => line.top)).size;
        });
    }"""
    stage, item, reason = tab.locator("#failures tbody tr").first.evaluate(lines)
    assert (stage, item) == (1, 1)
    assert reason > 1


def test_status__enlarges_a_picture_by_click_and_by_keyboard(opened: Opener) -> None:
    tab = opened("status")
    button = tab.get_by_role("button", name="Enlarge slide-S2")
    small = button.bounding_box()["width"]
    button.click()
    assert button.get_attribute("aria-expanded") == "true" and button.bounding_box()["width"] > 1.5 * small
    button.focus()
    tab.keyboard.press("Enter")
    assert button.get_attribute("aria-expanded") == "false" and button.bounding_box()["width"] == small


# --- the viewer -------------------------------------------------------------------------------------------


def micrometres(tab: Page) -> float:
    """How much the bar of the scale stands for; it is at most 140 px long, so less means closer."""
    tab.wait_for_timeout(60)  # the next frame
    text = tab.locator("canvas").get_attribute("data-bar")
    value, unit = text.split()
    return float(value) * {"µm": 1, "mm": 1000}[unit]


def told_at(tab: Page, x: float, y: float) -> str:
    box = tab.locator("canvas").bounding_box()
    tab.mouse.move(box["x"] + x, box["y"] + y)
    return tab.locator("#told").inner_text()


def middle(tab: Page) -> tuple[float, float]:
    box = tab.locator("canvas").bounding_box()
    return box["width"] / 2, box["height"] / 2


def test_viewer__shows_the_slide_with_its_colours_and_legend(opened: Opener) -> None:
    tab = opened("viewer")
    assert tab.locator("#legend").inner_text().split() == ["−0.30", "0.30", "log", "hazard"]
    tab.get_by_label("none").check()
    tab.get_by_label("stained").check()
    tab.wait_for_timeout(100)
    seen = tab.evaluate("""() => {
      const canvas = document.querySelector("canvas"), pen = canvas.getContext("2d");
      const at = (x, y) => Array.from(pen.getImageData(x * canvas.width, y * canvas.height, 1, 1).data.slice(0, 3));
      return [at(0.4, 0.25), at(0.6, 0.25), at(0.4, 0.75), at(0.6, 0.75)];
    }""")
    for found, colour in zip(seen[:3], ((200, 40, 40), (40, 200, 40), (40, 40, 200)), strict=True):
        assert all(abs(a - b) < 8 for a, b in zip(found, colour, strict=True)), (found, colour)
    assert min(seen[3]) > 240  # no bag there
    assert not tab.locator("#legend").is_visible()


def test_viewer__wheel_zooms_around_the_pointer(opened: Opener) -> None:
    tab = opened("viewer")
    whole = micrometres(tab)
    x, y = middle(tab)
    before = told_at(tab, x - 40, y - 60)
    assert before.startswith("Bag 0: weight")
    tab.mouse.wheel(0, -400)
    assert micrometres(tab) < whole
    assert told_at(tab, x - 40, y - 60) == before
    tab.mouse.wheel(0, 400)
    assert micrometres(tab) == whole


def test_viewer__drags_the_slide_with_the_pointer_and_keeps_it_in_view(opened: Opener) -> None:
    tab = opened("viewer")
    micrometres(tab)
    x, y = middle(tab)
    word = told_at(tab, x - 40, y - 60)
    tab.mouse.down()
    told_at(tab, x + 30, y - 10)
    tab.mouse.up()
    assert told_at(tab, x + 30, y - 10) == word
    for _ in range(4):  # however far it is dragged
        told_at(tab, 2 * x - 5, y)
        tab.mouse.down()
        told_at(tab, 5, y)
        tab.mouse.up()
    assert told_at(tab, x - 5, y - 60).startswith("Bag 1:")


def test_viewer__keyboard_moves_zooms_and_tells_what_is_in_the_middle(opened: Opener) -> None:
    tab = opened("viewer")
    whole = micrometres(tab)
    tab.locator("canvas").focus()
    told = tab.locator("#told")
    words = []
    for key in ("ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown"):
        tab.keyboard.press(key)
        words.append(told.inner_text())
    assert all(text.startswith("Bag") for text in words[1:3]) and len(set(words)) > 2
    for _ in range(4):
        tab.keyboard.press("+")
    assert micrometres(tab) < whole
    tab.keyboard.press("0")
    assert micrometres(tab) == whole
    for name, closer in (("Closer", True), ("Further", False)):
        tab.get_by_role("button", name="whole slide").click()
        for _ in range(4):
            tab.get_by_role("button", name=name).press("Enter")
        assert (micrometres(tab) < whole) is closer


def test_viewer__keeps_a_slide_that_is_tall_for_its_window_where_further_is_pressed(opened: Opener) -> None:
    tab = opened("viewer", {"width": 1600, "height": 300})
    whole = micrometres(tab)
    for _ in range(2):
        tab.get_by_role("button", name="Further").press("Enter")
    assert micrometres(tab) > whole


def test_viewer__two_fingers_zoom_and_one_moves(opened: Opener) -> None:
    tab = opened("viewer", PHONE, is_mobile=True, has_touch=True)
    whole = micrometres(tab)
    box = tab.locator("canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    session = tab.context.new_cdp_session(tab)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        fingers = [{"x": px, "y": py, "id": place} for place, (px, py) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    touch("touchStart", (x - 20, y), (x + 20, y))
    for spread in (40, 60, 80, 100):
        touch("touchMove", (x - spread, y), (x + spread, y))
    touch("touchEnd")
    close = micrometres(tab)
    assert close < whole
    before = tab.evaluate("document.querySelector('canvas').toDataURL()")
    touch("touchStart", (x, y))
    touch("touchMove", (x + 30, y + 40))
    touch("touchMove", (x + 60, y + 80))
    touch("touchEnd")
    assert micrometres(tab) == close
    assert tab.evaluate("document.querySelector('canvas').toDataURL()") != before
    assert tab.evaluate("scrollY") == 0


# --- the demo: slides, CT, everything that a run can have -------------------------------------------------


@pytest.mark.slow
def test_demo__its_pages_are_whole_and_accessible(opened: Opener, demo: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from mumo.commands.explain.command import Options, write_explanations
    from mumo.config import Settings
    from mumo.fusion import report

    run = tmp_path / "run"
    shutil.copytree(demo / "run", run)
    predictions = pq.read_table(run / "predictions.parquet").to_pandas()
    some = predictions.groupby("modalities")["patient"].first()
    write_explanations(run, demo / "store", run / "explain", Settings(), Options(only=tuple(some), checks=False))
    report.write_report(run)
    both = run / "explain" / some["both"]
    files = [run / "report.html", run / "explain" / "index.html", both / "index.html", *both.glob("slide-*.html")]
    assert len(files) > 3
    for file in files:
        tab = opened(file, bypass_csp=True)
        load_pictures(tab)
        assert tab.complaints == []
        assert (results := Axe().run(tab)).violations_count == 0, results.generate_report()
        tab.set_viewport_size(PHONE)
        assert tab.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
