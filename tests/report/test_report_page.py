import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import write_run

from mari_cli.errors import UserError
from mari_cli.metrics.registry import describe
from mari_cli.report.page import render, write_report
from mari_cli.report.plots import FIGURES
from mari_cli.report.read import read_runs
from mari_cli.tasks.compare import compare

VOID = {"meta", "br", "link", "img", "path", "use", "rect"}


class Outline(HTMLParser):
    """Checks that tags nest, and collects tags with their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def page_of(*paths: Path, title: str = "A report") -> str:
    return render(read_runs(list(paths)), title=title)


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "a"), write_run(tmp_path / "b", method="npo"))
    outline = Outline(page)
    for tag, attributes in outline.tags:
        assert tag not in ("script", "link", "img", "iframe", "image")
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
    assert not re.search(r"url\((?!#)|@import|https?://", page)


def test_references_inside_figures_lead_somewhere(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "a"))
    ids = set(re.findall(r'\bid="([^"]+)"', page))
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page))
    assert {a or b for a, b in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)} <= ids


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a")
    assert page_of(path) == page_of(path)


def test_a_page_of_ten_runs_stays_under_two_megabytes(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / str(i), method="mari", n=400) for i in range(10)]
    page = page_of(*paths)
    assert len(page.encode()) < 2_000_000
    assert "The first 8 of 10 runs are drawn." in page


def test_every_metric_shown_is_explained(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a")
    text = Outline(page_of(path)).text
    names = json.loads((path / "result.json").read_text())["models"]["unlearned"]["metrics"]
    assert len(names) > 30
    for name in names:
        assert describe(name).description.replace("`", "") in text.replace("`", "")


def test_one_run_shows_before_after_gold_and_the_signed_distance(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "a", name="mari token"))
    assert re.findall(r"</i>(\w[\w ]*)</th>", page) == ["before", "mari token", "gold"]
    assert "distance to gold" in page
    assert "−0.076" in page
    assert "A forget loss above gold's is over-forgetting, not a better result." in page


def test_text_of_a_corpus_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    evil = '<script>alert(1)</script><img src="http://evil.example/x.png">'
    path = write_run(
        tmp_path / "a",
        name=f"run {evil}",
        examples=[
            {"prompt": evil, "answer": evil, "target": evil, "unlearned": "{{ 7 * 7 }}", "gold": "$\\frac{"}
        ],
        edit=lambda result: result.update(notes=[f"note {evil} `{evil}`"], command=["mari", "unlearn", evil]),
    )
    page = page_of(path, title=evil)
    outline = Outline(page)
    assert not any(tag in ("script", "img") for tag, _ in outline.tags)
    assert "{{ 7 * 7 }}" in outline.text
    assert "$\\frac{" in outline.text
    assert outline.text.count(evil) >= 6


def test_a_name_with_dollars_is_drawn_as_it_is(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "a", name="lr=$x_1$ _under"))
    assert "lr=$x_1$ _under" in Outline(page).text


def test_an_empty_answer_is_said_to_be_one(tmp_path: Path) -> None:
    assert "(said nothing)" in page_of(write_run(tmp_path / "a"))


@pytest.mark.parametrize(
    ("missing", "gone", "named"),
    [
        ("gold", ["distance to gold", ">as gold<"], "a gold model"),
        ("holdout", ["loss AUC", "never seen,"], "a holdout corpus"),
        ("facts", ["unique-fact recall"], "marked facts"),
        ("generated", ["ROUGE-L recall"], "generated answers"),
        ("marginal", ["Fano bound</dt>"], "marginal information"),
        ("items", ["Record by record"], None),
        ("steps", ["KL to the reference"], None),
        ("data", ["<summary>Data"], None),
    ],
)
def test_what_was_not_measured_is_not_shown_but_named(
    tmp_path: Path, missing: str, gone: list[str], named: str | None
) -> None:
    page = page_of(write_run(tmp_path / "a", without=(missing,)))
    Outline(page)
    for words in gone:
        assert words not in page
    if named:
        assert named in page[page.index("Not measured here") :]


def test_numbers_that_are_not_finite_are_shown_as_such(tmp_path: Path) -> None:
    def broken(result: dict[str, Any]) -> None:
        metrics = result["models"]["unlearned"]["metrics"]
        for name in metrics:
            metrics[name] |= {"value": None, "low": None, "high": None}
        metrics["forget/perplexity"]["value"] = float("inf")

    path = write_run(tmp_path / "a", edit=broken)
    rows = [json.loads(line) for line in (path / "items.jsonl").read_text().splitlines()]
    for row in rows:
        row["answer_nll"] = None
    (path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = page_of(path)
    outline = Outline(page)
    assert '<span class="value">not finite</span>' in page
    assert '<span class="value">∞</span>' in page
    assert "The measurement is broken" in outline.text
    assert not re.search(r'(?:d|x|y|transform)="[^"]*(?:nan|inf)', page)


def test_several_runs_are_compared_in_one_table(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / method, method=method) for method in ("mari", "npo", "kl_ga")]
    page = page_of(*paths)
    overview = page[page.index("The runs side by side") : page.index("All metrics of all runs")]
    assert re.findall(r"</i>([\w ]+)</td>", overview) == ["before", "gold", "mari", "npo", "kl ga"]
    assert "Not separable, because their 95 % intervals overlap" in overview
    assert "The totals of different losses are not comparable" in page
    assert page.count("--prompt") == 0
    assert page.count("model.prompt_template=Question: {prompt}") == 3


def test_the_command_is_quoted_for_the_shell(tmp_path: Path) -> None:
    text = Outline(page_of(write_run(tmp_path / "a"))).text
    assert "mari unlearn loss=mari 'model.prompt_template=Question: {prompt}'" in text


def test_a_model_that_was_only_measured_has_a_page_too(tmp_path: Path) -> None:
    def one_model(result: dict[str, Any]) -> None:
        result |= {"task": "evaluate", "loss": None, "training": None}
        result["models"] = {"model": result["models"]["unlearned"], "gold": result["models"]["gold"]}

    page = page_of(write_run(tmp_path / "a", edit=one_model, without=("steps",)))
    Outline(page)
    assert "nothing was unlearned" in page


def test_every_figure_is_labelled_for_those_who_do_not_see_it(tmp_path: Path) -> None:
    outline = Outline(page_of(write_run(tmp_path / "a")))
    labels = [attributes.get("aria-label") for tag, attributes in outline.tags if tag == "svg"]
    assert len(labels) == len(FIGURES)
    assert all(labels)


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_report(tmp_path / "deep" / "report.html", "<p>ä</p>")
    assert (tmp_path / "deep" / "report.html").read_text(encoding="utf-8") == "<p>ä</p>"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["report.html"]


def test_compare_writes_a_report_and_returns_the_results(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / method, method=method) for method in ("mari", "npo")]
    found = compare(paths, tmp_path / "out.html")
    assert [result["name"] for result in found] == ["mari", "npo"]
    assert "<title>2 runs compared</title>" in (tmp_path / "out.html").read_text(encoding="utf-8")


def test_compare_without_a_file_writes_nothing(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a")
    before = sorted(tmp_path.rglob("*"))
    assert [result["name"] for result in compare([path])] == ["mari"]
    assert sorted(tmp_path.rglob("*")) == before


def test_compare_overwrites_nothing(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a")
    (tmp_path / "out.html").write_text("precious")
    with pytest.raises(UserError, match="exists already"):
        compare([path], tmp_path / "out.html")
    with pytest.raises(UserError, match="is a directory"):
        compare([path], tmp_path)
    assert (tmp_path / "out.html").read_text() == "precious"


def test_compare_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="no runs to compare"):
        compare([])
