"""The page of a service, driven in Chromium."""

import shutil

import pytest
import serving
import tiny
from serving import picture

from blip_jax.serve.app import build_app
from blip_jax.serve.client import Client
from blip_jax.serve.service import Service

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PNG = {"mimeType": "image/png"}
TOKEN = "a long enough token"


@pytest.fixture(scope="module")
def address():
    models = {"tiny": tiny.model(), "asks": tiny.model("vqa")}
    service = Service(models, serving.LIMITS)
    with serving.listening(build_app(service, TOKEN), serving.LIMITS) as port:
        Client(f"http://127.0.0.1:{port}").wait_until_ready()
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


def files(count):
    return [{"name": f"{i}.png", "buffer": picture(i), **PNG} for i in range(count)]


@pytest.mark.parametrize("width", [1280, 390])
def test_a_picture_is_captioned_asked_about_matched_explained_and_found(address, browser, width):
    page = browser.new_page(viewport={"width": width, "height": 800})
    complaints, asked = [], []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.fill("#token", TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_selector("#status[data-state=ready]")

    page.set_input_files("#file", files(1)[0])
    page.wait_for_selector("#methods .score >> nth=6")
    best = tiny.model().caption([tiny.images(1)[0]], num_captions=3)[0]
    shown = page.locator("#methods .score .text").all_inner_texts()[:3]
    assert [text.split() for text in shown] == [caption.text.split() for caption in best]

    page.fill("#question", "is it red?")
    page.keyboard.press("Enter")
    page.wait_for_selector("#answers-list .score >> nth=2")

    page.fill("#texts", "a red star\ntwo dogs")
    page.click("#match-form button")
    page.wait_for_selector("#match-list .score >> nth=1")
    assert sorted(page.locator("#match-list .text").all_inner_texts()) == ["a red star", "two dogs"]
    word = page.locator("#match-list .word", has_text="star")
    word.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#clear-heat:not([hidden])")
    assert word.get_attribute("aria-pressed") == "true"
    painted = "c => c.getContext('2d').getImageData(0, 0, 512, 512).data.some(v => v > 0)"
    assert page.locator("#heat").evaluate(painted)
    boxes = [page.locator(part).bounding_box() for part in ("#picture", "#heat")]
    assert boxes[0] == pytest.approx(boxes[1]) and boxes[0]["width"] >= 250

    page.set_input_files("#files", files(4))
    page.fill("#sentence", "two dogs")
    page.keyboard.press("Enter")
    page.wait_for_selector(".thumbs .best")
    arrays = [tiny.images(1, seed)[0] for seed in range(4)]
    scores = tiny.model().match_matrix(arrays, ["two dogs"]).itm[:, 0]
    order = [image.get_attribute("alt") for image in page.locator(".thumbs img").all()]
    assert order == [f"{i}.png" for i in sorted(range(4), key=lambda i: -scores[i])]

    assert page.locator("html").evaluate("e => e.scrollWidth") <= width
    assert complaints == []
    assert all(url.startswith((address, "blob:", "data:")) for url in asked)
    page.close()


def test_everything_that_is_asked_for_has_a_name(address, browser):
    page = browser.new_page()
    page.goto(address)
    nameless = """inputs => inputs.filter(i => !i.labels.length && !i.ariaLabel).map(i => i.id)"""
    assert page.locator("input, textarea, select").evaluate_all(nameless) == []
    page.keyboard.press("Escape")
    page.goto(f"{address}/docs")
    page.wait_for_selector(".card")
    assert "/v1/captions" in page.locator("main").inner_text()
    page.close()
