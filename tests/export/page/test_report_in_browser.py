"""The pages in a real browser: nothing asked of the network, nothing cut off, usable by keyboard and screen reader."""

import base64
import io
import itertools
import json

import numpy as np
import pytest
from PIL import Image

from mobilenets_tf.export.page.report import SchemeReport, render, render_schemes
from mobilenets_tf.export.proof.badge import Badge, together
from tests.export.page.test_report import MANIFEST, PASSED, evidence
from tests.support.browser import BROWSER, DRIVER, started

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="no Chromium with its chromedriver on this machine"),
]
SIZES = [(360, 740), (1280, 900)]
LONG = "a_very_long_name_" * 12

# What sticks out of the page to the right or the left and is in no box that scrolls; and text that its box cuts off.
CUT_OFF = """
const scrolls = e => e && (['auto', 'scroll'].includes(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
const found = [];
for (const element of document.querySelectorAll('body *')) {
  const box = element.getBoundingClientRect();
  if (!box.width || !box.height || element.matches('.skip') || scrolls(element.parentElement)) continue;
  if (box.left < -0.5 || box.right > innerWidth + 0.5) found.push(element.outerHTML.slice(0, 120));
  const style = getComputedStyle(element);
  if (style.overflowX === 'hidden' && element.scrollWidth > element.clientWidth + 1)
    found.push('hidden: ' + element.outerHTML.slice(0, 120));
}
for (const text of document.querySelectorAll('svg text')) {
  const box = text.getBoundingClientRect(), chart = text.closest('svg').getBoundingClientRect();
  if (box.left < chart.left - 1 || box.right > chart.right + 1) found.push('chart: ' + text.textContent);
}
return found;
"""
# The contrast of every piece of text with what is behind it, by WCAG 2's formula; the lowest, with its text.
CONTRAST = """
const rgb = c => c.match(/[\\d.]+/g).map(Number);
const light = c => { const [r, g, b] = rgb(c).slice(0, 3).map(v => (v /= 255) <= 0.04045 ? v / 12.92 :
  ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
  if ((rgb(c)[3] ?? 1) > 0) return c; } return 'rgb(255, 255, 255)'; };
let lowest = [99, ''];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
  if (!text || !element.getClientRects().length) continue;
  const style = getComputedStyle(element), colour = element.closest('svg') ? style.fill : style.color;
  const pair = [light(colour), light(behind(element))].sort((a, b) => b - a);
  const contrast = (pair[0] + 0.05) / (pair[1] + 0.05);
  if (contrast < lowest[0]) lowest = [contrast, text];
}
return lowest;
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with started(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """One page of each kind, with everything in it that pages can have, long names among it."""
    folder = tmp_path_factory.mktemp("pages")
    layer = {
        "layer": LONG, "operators": {"CONV_2D": 1}, "output_db": 12.0, "bought": 0.01, "bytes": 1200,
        "conversions": 2, "weight_bytes": 5000,
    }  # fmt: skip
    manifest = MANIFEST | {
        "per_channel": {"bytes": 5333000, "comparison": MANIFEST["comparison"]},
        "mixed_precision": {
            "max_drop": 0.005, "left": [layer], "drop": 0.004, "integer_drop": 0.02, "layers": 60, "trials": 12,
        },
        "fine_tuning": {
            "training_images": 99, "validation_accuracies": [0.5], "best_epoch": 0, "outcome": "Nothing gained.",
            "post_training": MANIFEST["comparison"], "fine_tuned": MANIFEST["comparison"],
        },
    }  # fmt: skip
    found = evidence(name=LONG, layer=LONG)
    failed = Badge("red", f"The file {LONG} is bad.", (LONG,), (LONG,))
    badges = {"int8": PASSED, "int16x8": failed, "float16": Badge("amber", LONG), "dynamic": Badge("grey", LONG)}
    reports = [
        SchemeReport(f"{LONG}_{scheme}.tflite", manifest | {"scheme": scheme} | badge.facts(), found)
        for scheme, badge in badges.items()
    ]
    written = {
        "report": render(f"{LONG}.tflite", manifest, found),
        "schemes": render_schemes(LONG, together(badges), reports, found.schemes, found.latency),
    }
    for name, page in written.items():
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
    return {name: (folder / f"{name}.html").as_uri() for name in written}


@pytest.fixture(params=["report", "schemes"])
def page(request, pages):
    return pages[request.param]


def show(browser, page, size, scheme="light"):
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(page)


def test_nothing_is_asked_of_the_network_and_nothing_complains(browser, page):
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    show(browser, page, SIZES[0])
    assert browser.title
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert page in asked
    assert [url for url in asked if url != page and not url.startswith("data:")] == []
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_cut_off_and_the_page_does_not_scroll_sideways(browser, page, size):
    show(browser, page, size)
    for opened in (False, True):
        if opened:
            browser.execute_script("document.querySelectorAll('details').forEach(box => box.open = true)")
        assert browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]") == [size[0]] * 2
        assert browser.execute_script(CUT_OFF) == []


def test_every_picture_has_a_text_and_is_there(browser, page):
    show(browser, page, SIZES[1])
    images = browser.execute_script("return [...document.images].map(i => [i.alt, i.naturalWidth])")
    assert images and all(alt and width == 128 for alt, width in images)
    charts = (
        "return [...document.querySelectorAll('svg')].map(s => [s.getAttribute('role'), s.getAttribute('aria-label')])"
    )
    assert all(role == "img" and len(label) > 40 for role, label in browser.execute_script(charts))


def test_headings_and_tables_are_in_order(browser, page):
    show(browser, page, SIZES[1])
    levels = browser.execute_script("return [...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    tables = """return [...document.querySelectorAll('table')].filter(t => !(t.caption && t.caption.textContent.trim()
        && [...t.querySelectorAll('th')].every(h => h.scope && h.textContent.trim()))).map(t => t.outerHTML)"""
    assert browser.execute_script(tables) == []
    landmarks = "return ['main', 'header', 'nav[aria-label]'].map(n => document.querySelectorAll(n).length)"
    assert browser.execute_script(landmarks) == [1, 1, 1]
    assert browser.execute_script("return document.documentElement.lang") == "en-GB"


def test_the_keyboard_reaches_the_skip_link_and_every_box_that_scrolls(browser, page):
    from selenium.webdriver import ActionChains, Keys

    show(browser, page, SIZES[0])
    browser.execute_script("document.querySelectorAll('details').forEach(box => box.open = true)")
    waiting = browser.execute_script("""return [...document.querySelectorAll('main *, header *')].filter(e =>
        ['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.scrollWidth > e.clientWidth).length""")
    assert waiting > 3  # tables are wider than a phone
    reached, scrolled = [], 0
    for _ in range(200):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        name, outline, wider, key, at_end = (
            browser.execute_script("""const e = document.activeElement, s = getComputedStyle(e);
            return [e.textContent.trim().slice(0, 30), s.outlineStyle + ' ' + s.outlineWidth,
                e.matches('.scroll, pre') && e.scrollWidth > e.clientWidth,
                [...document.querySelectorAll('*')].indexOf(e), e === document.body]""")
        )
        if key in reached or at_end:
            break
        reached.append(key)
        if len(reached) == 1:
            assert name == "Skip to the content"
            assert browser.execute_script("return document.activeElement.getBoundingClientRect().left") >= 0
        assert outline == "solid 3px", name
        if wider:
            ActionChains(browser).send_keys(Keys.ARROW_RIGHT).perform()
            moved = """const done = arguments[0], e = document.activeElement, end = performance.now() + 2000;
                const look = () => e.scrollLeft > 0 || performance.now() > end ? done(e.scrollLeft > 0)
                    : requestAnimationFrame(look); look();"""
            assert browser.execute_async_script(moved), name
            scrolled += 1
    assert scrolled == waiting


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(browser, page, scheme):
    show(browser, page, SIZES[1], scheme)
    browser.execute_script("document.querySelectorAll('details').forEach(box => box.open = true)")
    contrast, text = browser.execute_script(CONTRAST)
    assert contrast >= 4.5, text
    # Charts too are drawn in colours that differ from the paper.
    element = browser.find_element("css selector", "figure svg")
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(element.screenshot_as_base64))).convert("L"), float)
    assert (np.median(picture) > 128) == (scheme == "light")
    assert picture.max() - picture.min() > 120
