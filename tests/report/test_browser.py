"""Reports in a real browser: quiet, alone, whole on a phone and on paper, readable in light and dark."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import opened
from synthetic_run import write_run

from mari_cli.report.page import render, write_report
from mari_cli.report.read import read_run, read_runs

KINDS = ("run", "audit", "requests", "sweep", "bare")
PHONE, PAPER, DESK = 380, 718, 1280
"""Widths in CSS pixels: a small phone, A4 within its margins, a desk."""
READABLE, READABLE_LARGE = 4.5, 3.0
"""Least contrast of text, and of text from 24 px on (WCAG 2.2, 1.4.3)."""

OPEN_ALL = "document.querySelectorAll('details').forEach(fold => fold.open = true)"
CUT_OFF = """() => [...document.querySelectorAll('main *')]
  .filter(e => !e.closest('.unseen') && e.clientHeight > 0 && e.scrollHeight > e.clientHeight + 2
    && ["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowY))
  .map(e => e.className || e.tagName)"""
SCROLLED = """() => [...document.querySelectorAll('.measures, .card')].map(e => e.parentElement)
  .filter(e => e.scrollWidth > e.clientWidth).map(e => `${e.scrollWidth} in ${e.clientWidth}`)"""
INVISIBLE = """() => [...document.querySelectorAll(':is(h1, h2, h3, h4, p, li, td, th, dt, dd, pre, svg)')]
  .filter(e => !e.closest('.unseen, .measures .left') && e.textContent.trim() && !e.checkVisibility(
    {contentVisibilityAuto: true, visibilityProperty: true}))
  .map(e => `${e.tagName}: ${e.textContent.trim().slice(0, 40)}`)"""
FAINT = """([least, leastLarge]) => {
  const numbers = text => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const parse = text => text.startsWith('color(')
    ? numbers(text).map((v, i) => i < 3 ? 255 * v : v) : numbers(text);
  const over = (top, below) => {
    const a = top[3] ?? 1;
    return [0, 1, 2].map(i => top[i] * a + below[i] * (1 - a));
  };
  const ground = element => {
    if (!element) return [255, 255, 255];
    const own = parse(getComputedStyle(element).backgroundColor);
    return (own[3] ?? 1) === 1 ? own.slice(0, 3) : over(own, ground(element.parentElement));
  };
  const light = rgb => {
    const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = rgb.map(v => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  for (const element of document.querySelectorAll('main *')) {
    const texts = [...element.childNodes].filter(node => node.nodeType === 3);
    const said = texts.map(node => node.textContent.trim()).join('');
    if (!said || !element.checkVisibility() || element.closest('.unseen, style, script')) continue;
    const style = getComputedStyle(element);
    const below = ground(element instanceof SVGElement ? element.closest('.canvas') : element);
    const colour = over(parse(element instanceof SVGElement ? style.fill : style.color), below);
    const [a, b] = [light(colour), light(below)].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    const size = parseFloat(style.fontSize);
    if (contrast < (size >= 24 ? leastLarge : least))
      found.push(`${element.tagName} ${contrast.toFixed(2)} ${said.slice(0, 30)}`);
  }
  return [...new Set(found)];
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened() as found:
        yield found


def audited(result: dict[str, Any]) -> None:
    models = result["models"]
    result.update(task="audit", loss=None, training=None)
    result["models"] = {"target": models["target"], "model": models["unlearned"], "gold": models["gold"]}
    one = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 160}
    result["audit"] = [
        {
            "attack": attack,
            "case": case,
            "says": f"what `{case}` does to the model, in a sentence that is long enough to be wrapped",
            "models": dict.fromkeys(result["models"], one),
            "verdict": verdict,
            "detail": {},
        }
        for attack, case, verdict in (
            ("plain", "greedy", "as gold"),
            ("relearning", "4_items_at_0.001", "hidden, not gone"),
            ("quantisation", "int4", "comes back"),
        )
    ]


def of_requests(result: dict[str, Any]) -> None:
    """Two requests in turn; and a distance to gold, whose page has the longest names."""
    one = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 16}
    cells = [
        {"value": one | {"value": value}, "reading": reading, "gold": one, "as_gold": False}
        for value, reading in ((0.01, ""), (0.5, "its turn"), (0.99, "as then"))
    ]
    asked = [{"number": n, "label": f"{n}", "records": 8, "run": f"0{n}-a", "manifest": "0"} for n in (1, 2)]
    rows = [{"of": of, "metric": "forget/answer_nll", "cells": cells} for of in ("1", "2")]
    steps = ["before", "after 1", "after 2"]
    result["requests"] = {"requests": asked, "steps": steps, "weights": ["0"] * 3, "rows": rows}
    for role, value in (("target", 1.0), ("unlearned", 0.3), ("gold", 0.0)):
        result["models"][role]["metrics"]["distance_to_gold"] = one | {"value": value}


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    write_run(folder / "run", method="npo")
    write_run(folder / "audit", edit=audited)
    write_run(folder / "requests", edit=of_requests)
    runs = [
        write_run(folder / "sweep" / method, method=method) for method in ("mari", "npo", "kl_ga", "weak")
    ]
    write_run(
        folder / "bare", without=("gold", "holdout", "facts", "marginal", "suite", "steps", "intervals")
    )
    made = {kind: [read_run(folder / kind)] for kind in KINDS if kind != "sweep"} | {"sweep": read_runs(runs)}
    for kind, data in made.items():
        write_report(folder / f"{kind}.html", render(data, title=f"mari: {kind}"))
    return {kind: folder / f"{kind}.html" for kind in made}


@pytest.fixture(params=KINDS)
def page(request, browser, reports) -> Iterator[Any]:
    """One report; whatever it says on its console, or asks of anybody, fails the test."""
    context = browser.new_context(viewport={"width": DESK, "height": 900})
    found = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    found.on("console", lambda message: said.append(message.text))
    found.on("pageerror", lambda error: said.append(str(error)))
    found.on("request", lambda call: asked.append(call.url))
    address = reports[request.param].as_uri()
    found.goto(address)
    yield found
    context.close()
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [address]


def test_every_fold_opens_and_every_column_sorts(page):
    folds = page.locator("details")
    for i in range(folds.count()):
        fold = folds.nth(i)
        was_open = fold.get_attribute("open") is not None
        fold.locator("summary").first.click()
        assert (fold.get_attribute("open") is not None) is not was_open
        if was_open:
            fold.locator("summary").first.click()
        assert fold.bounding_box()["height"] > fold.locator("summary").first.bounding_box()["height"] + 10
    headers = page.locator("table.sortable th")
    for i in range(min(headers.count(), 6)):
        headers.nth(i).click()
        assert headers.nth(i).get_attribute("aria-sort") in ("ascending", "descending")


def test_no_part_is_wider_than_the_screen(page):
    page.evaluate(OPEN_ALL)
    for width in (PHONE, DESK):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.body.scrollWidth") <= width
        assert page.evaluate(SCROLLED) == [], width


def test_paper_shows_every_section_whole(page):
    page.emulate_media(media="print")
    page.set_viewport_size({"width": PAPER, "height": 1123})
    assert page.evaluate(INVISIBLE) == []
    assert page.evaluate(CUT_OFF) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= PAPER
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_every_word_stands_out_from_its_ground(page):
    page.evaluate(OPEN_ALL)
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") is (scheme == "light")
        assert page.evaluate(FAINT, [READABLE, READABLE_LARGE]) == [], scheme
