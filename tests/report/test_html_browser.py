"""The HTML report as a browser sees it: headless Chromium, where there is one."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import msgspec
import pytest

from vmaforensics.report.formats.html import render_html

from .chromium import NAMES, Browser, executable
from .example import clean, example, hostile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.image,  # a program as large as any
    pytest.mark.skipif(executable() is None, reason=f"none of {', '.join(NAMES)} is on the PATH"),
]

# Text of low contrast, by WCAG 2.1, 1.4.3: colours are read back from pixels, so that any notation will do. What
# stands on a pattern is left out; its words have a plate of their own.
_PALE = """
(() => {
  const brush = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const read = (colour) => {
    brush.clearRect(0, 0, 1, 1); brush.fillStyle = colour; brush.fillRect(0, 0, 1, 1);
    return [...brush.getImageData(0, 0, 1, 1).data];
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const pale = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !element.checkVisibility() || element.closest("svg, script, style")) continue;
    let back = null;
    for (let at = element; at && !back; at = at.parentElement) {
      const style = getComputedStyle(at);
      if (style.backgroundImage !== "none") back = "pattern";
      else if (read(style.backgroundColor)[3] > 200) back = read(style.backgroundColor).slice(0, 3);
    }
    if (back === "pattern") continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(read(style.color).slice(0, 3)), light(back)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = parseFloat(style.fontSize) >= 24;
    const said = `${ratio.toFixed(2)} ${element.className} ${walk.currentNode.data.trim()}`;
    if (ratio < (large ? 3 : 4.5)) pale.push(said);
  }
  return [...new Set(pale)];
})()
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    one = Browser(tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """file: addresses of reports."""
    documents = {
        "example": example(),
        "clean": clean(),
        "hostile": hostile(example(), addresses=False),
        "all hostile": hostile(example(), addresses=True),
    }
    folder: Path = tmp_path_factory.mktemp("reports")
    addresses = {}
    for name, document in documents.items():
        path = folder / f"{name}.html"
        path.write_bytes(render_html(document))
        addresses[name] = path.as_uri()
    return addresses


NAMES_OF_FILES = ("example", "clean", "hostile", "all hostile")


@pytest.mark.parametrize("script", [True, False])
@pytest.mark.parametrize("name", NAMES_OF_FILES)
def test_nothing_is_asked_for_but_the_file_and_nothing_complained_of(
    browser: Browser, files: dict[str, str], name: str, script: bool
) -> None:
    with browser.page(files[name], script=script) as page:
        assert page.complaints() == []
        assert page.requests() == [files[name]]


def test_the_policy_stops_a_script_that_is_not_the_pages_own(browser: Browser, files: dict[str, str]) -> None:
    with browser.page(files["example"]) as page:
        page.evaluate(
            "(() => { const s = document.createElement('script'); s.textContent = 'window.alien = 1';"
            " document.body.append(s); const i = new Image(); i.src = 'http://evil.test/x.png';"
            " document.body.append(i); })()"
        )
        assert page.evaluate("window.alien === undefined")
        assert any("Content Security Policy" in complaint for complaint in page.complaints())


@pytest.mark.parametrize("name", ["hostile", "all hostile"])
def test_hostile_strings_become_no_element(browser: Browser, files: dict[str, str], name: str) -> None:
    with browser.page(files[name]) as page:
        assert page.evaluate("document.querySelectorAll('script').length") == 1
        assert page.evaluate("document.querySelectorAll('img, iframe, base, link, object, embed').length") == 0
        assert (
            page.evaluate(
                "[...document.querySelectorAll('*')].flatMap((one) => one.getAttributeNames())"
                ".filter((name) => name.startsWith('on') || name === 'src' || name === 'style')"
            )
            == []
        )
        assert page.evaluate("document.querySelectorAll('article.card').length") == 5
        assert page.evaluate("getComputedStyle(document.querySelector('h1')).display") != "none"


def test_findings_are_there_without_javascript_and_the_filter_is_not(browser: Browser, files: dict[str, str]) -> None:
    with browser.page(files["example"], script=False) as page:
        seen = page.evaluate("document.body.innerText")
        for finding in example().findings:
            assert finding.id in seen
        assert "map_count is 3" in seen
        assert page.evaluate("document.querySelector('#filter').checkVisibility()") is False


def _visible(severity: str) -> str:
    return f"document.querySelector('article.{severity}').checkVisibility()"


def test_the_filter_hides_and_shows(browser: Browser, files: dict[str, str]) -> None:
    change = "document.querySelector('{}').{} = {}; document.querySelector('#filter').dispatchEvent(new Event('input'))"
    with browser.page(files["example"]) as page:
        assert page.evaluate("document.querySelector('#filter').checkVisibility()")
        assert page.evaluate(_visible("high"))
        page.evaluate(change.format("#filter-text", "value", "'VICTIM4'"))
        assert [page.evaluate(_visible(one)) for one in ("critical", "high", "low")] == [True, False, False]
        assert page.evaluate("document.querySelector('#filter-shown').textContent") == "1 of 5 findings shown"
        assert page.evaluate("document.querySelector('tr[data-pid=\"103\"]').checkVisibility()") is False
        page.evaluate("document.querySelector('#filter button').click()")
        page.evaluate("new Promise((done) => setTimeout(done, 50))")
        assert [page.evaluate(_visible(one)) for one in ("critical", "high", "low")] == [True, True, True]
        page.evaluate(change.format("input[value=high]", "checked", "false"))
        assert [page.evaluate(_visible(one)) for one in ("critical", "high", "low")] == [True, False, True]
        maps = "[...document.querySelectorAll('section.map')].map((one) => one.checkVisibility())"
        assert page.evaluate(maps) == [True, False]
        page.evaluate(change.format("#filter-pid", "value", "'103'"))
        assert page.evaluate("document.querySelector('#no-match').checkVisibility()")


def test_a_link_opens_the_finding_it_leads_to(browser: Browser, files: dict[str, str]) -> None:
    info = next(finding for finding in example().findings if finding.severity == "info")
    opened = f"document.getElementById('f-{info.id}').querySelector('details').open"
    with browser.page(files["example"]) as page:
        assert page.evaluate(opened) is False
    with browser.page(f"{files['example']}#f-{info.id}") as page:
        assert page.evaluate(opened) is True
        assert page.complaints() == []


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", NAMES_OF_FILES)
def test_the_page_is_never_wider_than_the_window(
    browser: Browser, files: dict[str, str], name: str, width: int
) -> None:
    with browser.page(files[name], width=width) as page:
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", ["example", "clean"])
def test_text_stands_out_from_what_is_behind_it(browser: Browser, files: dict[str, str], name: str, dark: bool) -> None:
    with browser.page(files[name], dark=dark) as page:
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert page.evaluate(_PALE) == []


def test_light_and_dark_follow_the_system(browser: Browser, files: dict[str, str]) -> None:
    shades = []
    for dark in (False, True):
        with browser.page(files["example"], dark=dark) as page:
            shades.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert [sum(map(int, shade[4:-1].split(","))) > 384 for shade in shades] == [True, False]


def test_what_scrolls_and_what_links_can_be_reached_by_keyboard(browser: Browser, files: dict[str, str]) -> None:
    with browser.page(files["example"]) as page:
        tab = {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9}
        for kind in ("keyDown", "keyUp"):
            page.command("Input.dispatchKeyEvent", type=kind, **tab)
        assert page.evaluate("document.activeElement.className") == "skip"
        assert page.evaluate(
            "[...document.querySelectorAll('.scroll')].every((one) => one.tabIndex === 0 && one.ariaLabel)"
        )


def test_paper_shows_what_a_screen_keeps_folded(browser: Browser, files: dict[str, str]) -> None:
    with browser.page(files["example"], script=False) as page:
        page.command("Emulation.setEmulatedMedia", media="print")
        heights = page.evaluate("[...document.querySelectorAll('.hands pre')].map((one) => one.offsetHeight)")
        assert len(heights) == 20
        assert all(height > 10 for height in heights)
        assert page.evaluate("document.querySelector('nav').offsetHeight") == 0
        pdf = page.pdf()
    assert pdf.startswith(b"%PDF-")
    assert pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") + pdf.count(b"/Type /Page/") >= 3


def test_a_screenshot_is_of_the_size_asked_for(browser: Browser, files: dict[str, str]) -> None:
    with browser.page(files["example"], width=800, height=600) as page:
        assert struct.unpack(">II", page.screenshot()[16:24]) == (800, 600)


def test_a_report_without_findings_can_be_searched_for_processes(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(render_html(msgspec.structs.replace(clean())))
    with browser.page(path.as_uri()) as page:
        page.evaluate(
            "document.querySelector('#filter-text').value = 'victim2';"
            "document.querySelector('#filter').dispatchEvent(new Event('input'))"
        )
        rows = "[...document.querySelectorAll('.processes tbody tr')].filter((one) => one.checkVisibility()).length"
        assert page.evaluate(rows) == 1
        assert page.complaints() == []
