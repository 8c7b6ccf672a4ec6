import json
import math
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import undrawn
from scipy.stats import ks_2samp
from synthetic_run import write_run

from mari_cli.errors import UserError
from mari_cli.report.page import render, write_report
from mari_cli.report.plots import FIGURES, style
from mari_cli.report.read import read_runs
from mari_cli.suites.registry import describe
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


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that no test changes."""
    return write_run(tmp_path_factory.mktemp("page") / "a")


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    """The page of ``run``, drawn once: to draw all figures takes longer than any test of the page."""
    return page_of(run)


@pytest.fixture(scope="module")
def page_without_gold(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page_of(write_run(tmp_path_factory.mktemp("page") / "a", without=("gold",)))


@pytest.fixture
def undrawn_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is said: the figures are made and not drawn, and only their words stand in the page."""
    monkeypatch.setattr(style, "to_svg", undrawn.to_svg)


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "a"), write_run(tmp_path / "b", method="npo"))
    outline = Outline(page)
    assert [attributes for tag, attributes in outline.tags if tag == "script"] == [{}]  # ours, in the page
    for tag, attributes in outline.tags:
        assert tag not in ("link", "img", "iframe", "image")
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
    assert not re.search(r"url\((?!#)|@import|https?://", page)


def test_references_inside_figures_lead_somewhere(page: str) -> None:
    ids = set(re.findall(r'\bid="([^"]+)"', page))
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page))
    assert {a or b for a, b in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)} <= ids


def test_the_same_run_gives_the_same_bytes(run: Path, page: str) -> None:
    assert page_of(run) == page


def test_a_page_of_ten_runs_stays_under_two_megabytes(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / str(i), method="mari", n=400) for i in range(10)]
    page = page_of(*paths)
    assert len(page.encode()) < 2_000_000
    assert "The first 8 of 10 runs are drawn." in page


@pytest.mark.usefixtures("undrawn_page")
def test_every_metric_shown_is_explained(tmp_path: Path) -> None:
    def ask_more(result: dict[str, Any]) -> None:
        for model in result["models"].values():
            figure = {"value": 0.5, "n": 9, "low": 0.4, "high": 0.6}
            model["metrics"] |= dict.fromkeys(("benchmark/piqa", "benchmark/piqa_acc_norm"), figure)

    path = write_run(tmp_path / "a", edit=ask_more)
    shown = {name for model in read_runs([path])[0].models.values() for name in model.metrics}
    assert len(shown) > 30
    text = Outline(page_of(path)).text
    assert "PIQA (acc_norm)" in text
    for metric in map(describe, shown):
        assert metric.description.replace("`", "") in text.replace("`", "")


@pytest.mark.usefixtures("undrawn_page")
def test_one_run_shows_before_after_gold_and_the_signed_distance(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "a", name="mari token"))
    assert re.findall(r"</i>(\w[\w ]*)</th>", page)[:3] == ["before", "mari token", "gold"]
    assert "minus gold" in page
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
    assert [tag for tag, _ in outline.tags if tag in ("script", "img")] == ["script"]
    assert "alert" not in page[page.rindex("<script>") :]
    assert "{{ 7 * 7 }}" in outline.text
    assert "$\\frac{" in outline.text
    assert outline.text.count(evil) >= 6


def test_a_name_with_dollars_is_drawn_as_it_is(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "a", name="lr=$x_1$ _under"))
    assert "lr=$x_1$ _under" in Outline(page).text


def test_an_empty_answer_is_said_to_be_one(page: str) -> None:
    assert "(said nothing)" in page


@pytest.mark.usefixtures("undrawn_page")
@pytest.mark.parametrize(
    ("missing", "gone", "named"),
    [
        ("gold", ["minus gold", ">as gold<"], "a gold model"),
        ("holdout", ["loss AUC", "never seen,"], "a holdout corpus"),
        ("facts", ["unique-fact recall"], "marked facts"),
        ("generated", [">ROUGE-L recall<"], "generated answers"),
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
    assert not re.search(r'\b(?:d|x|y|transform)="[^"]*(?:nan|inf)', page)


@pytest.mark.usefixtures("undrawn_page")
def test_several_runs_are_compared_in_one_table(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / method, method=method) for method in ("mari", "npo", "kl_ga")]
    page = page_of(*paths)
    overview = page[page.index("The runs side by side") : page.index("All metrics of all runs")]
    assert re.findall(r"</i>([\w ]+)</td>", overview) == ["before", "gold", "mari", "npo", "kl ga"]
    assert "Not separable by their two intervals alone (95 % intervals" in overview
    assert "The totals of different losses are not comparable" in page
    assert page.count("--prompt") == 0
    assert page.count("model.prompt_template=Question: {prompt}") == 3


def test_the_command_is_quoted_for_the_shell(page: str) -> None:
    text = Outline(page).text
    assert "mari unlearn loss=mari 'model.prompt_template=Question: {prompt}'" in text


@pytest.mark.usefixtures("undrawn_page")
def test_a_model_that_was_only_measured_has_a_page_too(tmp_path: Path) -> None:
    def one_model(result: dict[str, Any]) -> None:
        result |= {"task": "evaluate", "loss": None, "training": None}
        result["models"] = {"model": result["models"]["unlearned"], "gold": result["models"]["gold"]}

    page = page_of(write_run(tmp_path / "a", edit=one_model, without=("steps",)))
    Outline(page)
    assert "nothing was unlearned" in page


def test_every_figure_is_labelled_for_those_who_do_not_see_it(page: str) -> None:
    outline = Outline(page)
    labels = [attributes.get("aria-label") for tag, attributes in outline.tags if tag == "svg"]
    assert len(labels) == len(FIGURES)
    assert all(labels)
    assert "<code>train.evaluate_items</code>" in page


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_report(tmp_path / "deep" / "report.html", "<p>ä</p>")
    assert (tmp_path / "deep" / "report.html").read_text(encoding="utf-8") == "<p>ä</p>"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["report.html"]


@pytest.mark.usefixtures("undrawn_page")
def test_compare_writes_a_report_and_returns_the_results(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / method, method=method) for method in ("mari", "npo")]
    found = compare(paths, tmp_path / "out.html")
    assert [result["name"] for result in found.results] == ["mari", "npo"]
    again = [write_run(tmp_path / folder / "x", method="mari") for folder in ("one", "two")]
    names = [result["name"] for result in compare(again).results]
    assert names == ["mari (one/x)", "mari (two/x)"]
    assert compare(again).pair == tuple(names)
    assert "<title>2 runs compared</title>" in (tmp_path / "out.html").read_text(encoding="utf-8")


def test_compare_without_a_file_writes_nothing(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a")
    before = sorted(tmp_path.rglob("*"))
    assert [result["name"] for result in compare([path]).results] == ["mari"]
    assert sorted(tmp_path.rglob("*")) == before


def test_compare_overwrites_nothing(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a")
    (tmp_path / "out.html").write_text("precious")
    with pytest.raises(UserError, match="exists already"):
        compare([path], tmp_path / "out.html")
    with pytest.raises(UserError, match="is a directory"):
        compare([path], tmp_path)
    assert (tmp_path / "out.html").read_text() == "precious"


def test_a_run_that_is_given_twice_stands_there_once_and_is_told(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "a"), write_run(tmp_path / "b", method="npo")
    (tmp_path / "link").symlink_to(one)
    found = compare([one, other, tmp_path / "link", one])
    assert len(found.results) == 2
    assert found.warnings == ["`a` was given more than once."]
    assert compare([one, other]).warnings == []


def test_a_job_of_a_sweep_that_did_not_end_is_left_out_and_is_told(tmp_path: Path) -> None:
    write_run(tmp_path / "s" / "a")
    cut = write_run(tmp_path / "s" / "b", method="npo")
    (cut / "run.json").touch()
    assert compare([tmp_path / "s"]).warnings == []
    (cut / "result.json").unlink()
    found = compare([tmp_path / "s"])
    assert len(found.results) == 1
    assert found.warnings == ["left out of `s`: 1 job begun and not finished."]


def test_no_name_moves_the_cursor_or_turns_the_text(tmp_path: Path) -> None:
    names = ("\x1b[31mred", "\u202eright", "two\nlines")
    paths = [write_run(tmp_path / f"{i}\n", name=name) for i, name in enumerate((*names, names[0]))]
    found = compare(paths)
    told = [result["name"] for result in found.results]
    assert told == [r"\x1b[31mred (0\n)", r"\u202eright", r"two\nlines", r"\x1b[31mred (3\n)"]
    assert f"{found.not_separable}{found.warnings}".isprintable()


def test_a_letter_that_the_font_of_the_figures_lacks_is_no_warning(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / name, name=name, n=12) for name in ("文", "b")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare(paths, tmp_path / "out.html")
    assert "文" in (tmp_path / "out.html").read_text(encoding="utf-8")


def test_compare_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="no runs to compare"):
        compare([])


# -- definitions -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn_page")
def test_every_metric_of_the_tables_is_a_link_to_its_definition_in_the_page(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "a"), write_run(tmp_path / "b", method="npo"))
    links = re.findall(r'<a class="metric" href="#about-(\w+)">([^<]+)</a>', page)
    assert ("answer_nll", "forget answer NLL") in links
    assert ("truth_ratio", "TOFU forget truth ratio") in links
    defined = re.findall(r'<section class="definition" id="about-(\w+)">\s*<h3>([^<]+)</h3>', page)
    assert {anchor for anchor, _ in links} | {"statistics", "what_it_proves"} == {
        anchor for anchor, _ in defined
    }
    assert len(defined) == len(set(defined))


def test_a_definition_is_the_metrics_page(page: str) -> None:
    definition = page[page.index('id="about-extraction_strength"') :]
    definition = definition[: definition.index("</section>")]
    assert "<h4>Degenerate cases</h4>" in definition
    assert "extraction_strength = mean over items of 1 - k/T" in definition
    assert "<code>*/extraction_strength</code>" in definition
    assert "<h1>" not in definition
    assert "<h2>" not in definition


@pytest.mark.usefixtures("undrawn_page")
def test_what_was_not_measured_is_not_defined(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "a", without=("suite", "marginal")))
    assert 'id="about-truth_ratio"' not in page
    assert 'id="about-marginal_information"' not in page


# -- seeds -----------------------------------------------------------------------------------------


def seeded(path: Path, seed: int, **options: Any) -> Path:
    """A run whose config says another seed, and whose numbers are a little different."""

    def edit(result: dict[str, Any]) -> None:
        for metric in result["models"]["unlearned"]["metrics"].values():
            metric["value"] += 0.01 * seed

    run = write_run(path, edit=edit, **options)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0\nmodel", f"seed: {seed}\nmodel"))
    return run


@pytest.mark.usefixtures("undrawn_page")
def test_runs_of_one_method_that_differ_in_their_seed_are_one_row(tmp_path: Path) -> None:
    paths = [seeded(tmp_path / f"{m}{s}", s, method=m) for m in ("mari", "npo") for s in (0, 1, 2)]
    page = page_of(*paths)
    overview = page[page.index("The runs side by side") : page.index("All metrics of all runs")]
    assert re.findall(r"</i>([\w ()]+)</td>", overview) == [
        "before",
        "gold",
        "mari (3 seeds)",
        "npo (3 seeds)",
    ]
    assert "whose intervals are over these" in overview
    assert "2 methods side by side" in page
    each = page[page.index("npo (3 seeds): each seed") :]
    rows = re.findall(r"<td>forget exact match</td><td>([\d.]+)</td><td>([\d.]+)</td><td>([\d.]+)</td>", each)
    first, second, third = map(float, rows[0])
    assert second - first == pytest.approx(0.01, abs=2e-3)
    assert third - second == pytest.approx(0.01, abs=2e-3)


@pytest.mark.usefixtures("undrawn_page")
def test_one_method_over_seeds_is_read_as_one_run(tmp_path: Path) -> None:
    page = page_of(*(seeded(tmp_path / str(s), s) for s in (0, 1)))
    assert re.findall(r"</i>([\w ()]+)</th>", page)[:3] == ["before", "mari (2 seeds)", "gold"]
    assert "means over 2 runs of “mari” with the seeds 0 and 1" in page


# -- suites and items ------------------------------------------------------------------------------


def test_a_suite_has_a_table_of_its_own(page: str) -> None:
    general = page[page.index("All numbers") : page.index("Suite: tofu")]
    suite = page[page.index("Suite: tofu") : page.index("Membership attacks")]
    assert "TOFU forget quality" not in general
    assert re.findall(r"</i>(\w[\w ]*)</th>", suite)[:3] == ["before", "mari", "gold"]
    assert suite.index("over all sets") < suite.index("TOFU model utility") < suite.index("TOFU forget truth")
    assert page.index("mari: D = ") > page.index("Suite: tofu")


def test_without_gold_there_is_no_distance_between_truth_ratios(page_without_gold: str) -> None:
    assert ": D = " not in page_without_gold[: page_without_gold.index("<h2>Definitions</h2>")]
    assert "no forget quality" in page_without_gold


def test_the_distance_drawn_is_that_of_the_test_behind_forget_quality(run: Path, page: str) -> None:
    rows = [json.loads(line) for line in (run / "items.jsonl").read_text().splitlines()]
    ratios = {
        role: [row["truth_ratio"] for row in rows if row["model"] == role and "truth_ratio" in row]
        for role in ("target", "unlearned", "gold")
    }
    for label, role in (("before", "target"), ("mari", "unlearned")):
        assert f"{label}: D = {ks_2samp(ratios[role], ratios['gold']).statistic:.3f}<" in page


@pytest.mark.usefixtures("undrawn_page")
def test_a_log_truth_ratio_is_drawn_as_well(tmp_path: Path, page: str) -> None:
    path = write_run(tmp_path / "a")
    rows = [json.loads(line) for line in (path / "items.jsonl").read_text().splitlines()]
    for row in rows:
        if "truth_ratio" in row:
            row["log_truth_ratio"] = math.log(row.pop("truth_ratio"))
    rows[-1]["log_truth_ratio"] = -800.0  # a collapsed model's
    (path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert re.findall(r"before: D = [\d.]+", page_of(path)) == re.findall(r"before: D = [\d.]+", page)


def test_every_attack_has_a_panel_with_a_curve_for_each_model(page: str) -> None:
    figure = page[page.index("Membership attacks") :]
    figure = figure[: figure.index("</figure>")]
    assert re.findall(r">(loss|zlib|min-k|min-k\+\+)<", figure) == ["loss", "zlib", "min-k"]
    for colour in ("before", "gold", "run0"):
        assert len(re.findall(rf"stroke: var\(--{colour}\)", figure)) == 3


@pytest.mark.usefixtures("undrawn_page")
def test_items_are_listed_with_the_best_remembered_first_and_without_a_word_of_them(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", n=300)
    page = page_of(path)
    table = page[page.index("<summary>forget: 200 of 300 items") :]
    table = table[: table.index("</table>")]
    body = table[table.index("<tbody>") :]
    behind = [
        float(cells[6])
        for row in body.split("<tr>")[1:]
        if (cells := re.findall(r'data-order="([^"]*)"', row))
    ]
    assert len(behind) == 200
    assert behind == sorted(behind)
    rows = [json.loads(line) for line in (path / "items.jsonl").read_text().splitlines()]
    loss = {
        role: [
            r["answer_nll"] for r in rows if (r["model"], r["set"]) == (role, "forget") and "suite" not in r
        ]
        for role in ("unlearned", "gold")
    }
    assert behind[0] == pytest.approx(
        min(a - b for a, b in zip(loss["unlearned"], loss["gold"], strict=True))
    )


def only_a_suite(path: Path, suite: str, rows: list[dict[str, Any]], **metrics: float) -> Path:
    """An evaluation of a model beside gold that asked a suite and nothing else."""

    def edit(result: dict[str, Any]) -> None:
        result |= {"task": "evaluate", "loss": None, "training": None, "notes": []}
        found = {
            f"{suite}/{name}": {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 40}
            for name, value in metrics.items()
        }
        result["models"] = {role: {"metrics": found, "hash": role} for role in ("model", "gold")}

    write_run(path, edit=edit, without=("steps", "items"), examples=[])
    of_models = [{"model": role, "suite": suite} | row for role in ("model", "gold") for row in rows]
    (path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in of_models))
    sets = dict.fromkeys(row["set"] for row in rows)
    about = {suite: {name: {"records": 4, "sha256": f"{name:0<64}"} for name in sets}}
    (path / "data.json").write_text(json.dumps(about))
    return path


MUSE = [
    *({"set": "verbatim_forget", "item": i, "rouge_l_f1": 0.1 * i} for i in range(4)),
    *(
        {"set": f"privacy_{side}", "item": i, "answer_nll": 1.0 + i, "min_k": -1.0 - i}
        for side in ("forget", "holdout")
        for i in range(4)
    ),
]


def test_a_suite_alone_has_its_items_set_by_set_and_its_curves(tmp_path: Path) -> None:
    page = page_of(only_a_suite(tmp_path / "a", "muse", MUSE, verbatim_forget=0.4, min_k_auc=0.5))
    assert re.findall(r"<summary>(muse / \w+: 4 items)</summary>", page) == [
        "muse / verbatim_forget: 4 items",
        "muse / privacy_forget: 4 items",
        "muse / privacy_holdout: 4 items",
    ]
    table = page[page.index("<summary>muse / verbatim_forget") : page.index("<summary>muse / privacy_forget")]
    assert "First whose ROUGE-L is furthest above that of the gold model" in table
    assert re.findall(r'tabindex="0">([^<]+)<', table) == [
        *("item", "hash", "ROUGE-L now", "ROUGE-L of gold", "now − gold")
    ]
    assert re.findall(r">(muse: [\w-]+)<", page) == ["muse: loss", "muse: min-k"]


def test_a_suite_alone_is_judged_in_the_first_screen_with_intervals_and_items(tmp_path: Path) -> None:
    text = Outline(page_of(only_a_suite(tmp_path / "a", "muse", MUSE, verbatim_forget=0.4))).text
    assert "does not tell the model from one that never saw it" in text
    says = text[text.index("What MUSE says") : text.index("All numbers")]
    assert re.sub(r"\s+", " ", says) == (
        "What MUSE says measuremodelgoldnreading Forget passages: continued as they are written "
        "(ROUGE-L F1) as gold40 %30 – 50 %40 %30 – 50 %40as gold "
    )
    assert "Marginal information was not measured" not in text


@pytest.mark.usefixtures("undrawn_page")
def test_forget_quality_is_read_by_its_own_p_value(tmp_path: Path) -> None:
    forget = [{"set": "forget", "item": i, "answer_nll": 1.0 + i} for i in range(4)]
    told, not_told = (
        Outline(page_of(only_a_suite(tmp_path / str(p), "tofu", forget, forget_quality=p))).text
        for p in (0.04, 0.06)
    )
    assert "forget quality differs from gold's" in told
    assert "does not tell the model from one that never saw it" in not_told


@pytest.mark.usefixtures("undrawn_page")
def test_what_a_suite_has_measured_is_not_said_to_be_missing(tmp_path: Path) -> None:
    page = page_of(only_a_suite(tmp_path / "a", "muse", MUSE, verbatim_forget=0.4, min_k_auc=0.5))
    missing = page[page.index("Not measured here") :].partition("</p>")[0]
    assert missing == (
        "Not measured here: a benchmark (general ability: <code>metrics.benchmarks</code>), "
        "examples of answers."
    )


@pytest.mark.usefixtures("undrawn_page")
def test_the_sets_of_a_suite_are_rows_of_the_data_with_short_hashes(tmp_path: Path) -> None:
    page = page_of(only_a_suite(tmp_path / "a", "muse", MUSE, verbatim_forget=0.4))
    data = page[page.index("<summary>Data</summary>") :].partition("</table>")[0]
    assert re.findall(r"<td>(muse/\w+)</td><td>4</td><td[^>]*>(\w{12})</td>", data)[0] == (
        "muse/verbatim_forget",
        "verbatim_for",
    )
    assert "{" not in data


def test_runs_whose_suites_asked_other_questions_are_not_to_be_compared(tmp_path: Path) -> None:
    paths = [only_a_suite(tmp_path / name, "muse", MUSE, verbatim_forget=0.4) for name in "ab"]
    assert not compare(paths).warnings
    other = paths[0] / "data.json"
    other.write_text(other.read_text().replace("verbatim_forget0", "verbatim_forget1"))
    assert "muse/verbatim_forget" in compare(paths).warnings[0]


def test_items_without_gold_are_listed_by_their_loss(page_without_gold: str) -> None:
    assert "First whose loss is lowest" in page_without_gold
    assert "now − gold" not in page_without_gold


@pytest.mark.usefixtures("undrawn_page")
def test_an_item_without_a_finite_loss_comes_last(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", n=20)
    rows = [json.loads(line) for line in (path / "items.jsonl").read_text().splitlines()]
    for row in rows:
        if (row["model"], row["set"], row["item"]) == ("unlearned", "forget", 7) and "suite" not in row:
            row["answer_nll"] = None
    (path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = page_of(path)
    table = table[table.index("<summary>forget: 20 items") :]
    last = table[: table.index("</tbody>")].split("<tr>")[-1]
    assert '<td data-order="7">7</td>' in last
    assert "not finite" in last


@pytest.mark.usefixtures("undrawn_page")
def test_the_training_says_how_its_steps_were_taken_and_how_fast(tmp_path: Path, page: str) -> None:
    def on_a_gpu(result: dict[str, Any]) -> None:
        result["training"] |= {"gradient_checkpointing": True, "kernels": "compiled", "micro_batch": None}

    text = Outline(page).text
    assert (
        "A step: sequences padded (auto: its attention is not causal); predictions pooled over the whole "
        "step; 4 sequences of each corpus at a time; logits of 1,024 positions at a time; kernels eager "
        "(only compiled on CUDA). Median of its steps: 860 tokens a second."
    ) in text
    there = write_run(tmp_path / "b", edit=on_a_gpu)
    rows = [json.loads(line) for line in (there / "metrics.jsonl").read_text().splitlines()]
    rows = [row | {"mfu": 0.413, "peak_bytes": 20.25 * 2**30} for row in rows]
    (there / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = Outline(page_of(there)).text
    assert "activations made twice (checkpointing); kernels compiled." in text
    assert "860 tokens a second, 41 % of the device's peak (MFU) and 20.2 GiB at the peak." in text
    assert "tokens_per_second" not in text
    assert "peak_bytes" not in text


@pytest.mark.usefixtures("undrawn_page")
def test_of_a_run_that_does_not_say_nothing_is_said(tmp_path: Path) -> None:
    def older(result: dict[str, Any]) -> None:
        for name in ("layout", "pooling_scope", "micro_batch", "chunk", "kernels"):
            del result["training"][name]

    assert "A step:" not in Outline(page_of(write_run(tmp_path / "a", edit=older))).text
