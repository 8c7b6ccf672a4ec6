from collections.abc import Callable
from pathlib import Path
from typing import Any

from synthetic_run import write_run

from mari_cli.report.narrative import Narrative, summarise
from mari_cli.report.read import read_runs

Edit = Callable[[dict[str, Any]], None]


def told(path: Path, **options: Any) -> Narrative:
    return summarise(read_runs([write_run(path, **options)]))


def everything(summary: Narrative) -> str:
    claims = [*summary.claims, summary.bound]
    sentences = [sentence for claim in claims for sentence in claim.sentences]
    points = [f"{lead} {text}" for claim in claims for lead, text in claim.points]
    measures = [f"{m.says} {m.reading} {m.note}" for claim in claims for m in claim.measures]
    return " ".join([summary.headline, *summary.warnings, *sentences, *points, *measures])


def setting(role: str, name: str, value: float | None, width: float = 0.01) -> Edit:
    def edit(result: dict[str, Any]) -> None:
        ends = {"low": None, "high": None} if value is None else {"low": value - width, "high": value + width}
        result["models"][role]["metrics"][name] = {"value": value, "n": 100} | ends

    return edit


def test_a_model_like_gold_is_said_to_be_so_and_no_more(tmp_path: Path) -> None:
    summary = told(tmp_path / "a", method="mari")
    assert summary.headline.startswith(
        "Forgotten as gold, kept as before. "
        "On the forget data, none of the five measures below tells the model from one that never saw it."
    )
    assert "not measurably worse than before" in summary.headline
    assert summary.warnings == []


def test_a_loss_above_golds_is_over_forgetting_and_no_merit(tmp_path: Path) -> None:
    summary = told(tmp_path / "a", method="npo")
    text = everything(summary)
    assert summary.headline.startswith("Over-forgotten: on the forget data, loss, token accuracy")
    assert "which is no merit" in text
    assert "the texts stand out by too high a loss" in text
    assert (
        "The price: token accuracy on the retain data and recall of shared facts got worse."
        in summary.headline
    )


def test_short_of_gold_is_not_forgotten(tmp_path: Path) -> None:
    assert told(tmp_path / "a", method="weak").headline.startswith(
        "Not forgotten: the five measures below are all still short of the gold model's."
    )


def test_a_loss_at_golds_does_not_hide_facts_that_are_still_told(tmp_path: Path) -> None:
    summary = told(tmp_path / "a", edit=setting("unlearned", "facts/unique_recall", 0.6))
    assert summary.headline.startswith(
        "Not fully forgotten: on the forget data, fact recall is still short of the gold model's."
    )


def test_forgetting_in_some_respects_too_little_and_in_others_too_much_is_uneven(tmp_path: Path) -> None:
    assert told(tmp_path / "a", method="kl_ga").headline.startswith(
        "Forgotten unevenly: on the forget data, fact recall is still short"
    )


def test_without_gold_there_is_no_verdict(tmp_path: Path) -> None:
    summary = told(tmp_path / "a", without=("gold",))
    text = everything(summary)
    assert summary.headline.startswith(
        "No gold model was measured, so this report says what changed, not whether the data was forgotten."
    )
    assert "is still below that of data that no model saw, so it looks familiar" in text
    assert "That is a hint only" in text
    for claim in ("as gold", "over-forgotten", "not yet forgotten"):
        assert claim not in text


def test_without_intervals_and_items_there_is_no_verdict(tmp_path: Path) -> None:
    assert told(tmp_path / "a", without=("intervals", "items")).headline.startswith(
        "There are no intervals to judge the distance to the gold model by."
    )


def test_a_value_that_is_not_finite_is_said_first(tmp_path: Path) -> None:
    summary = told(tmp_path / "a", edit=setting("unlearned", "forget/answer_nll", None))
    assert summary.headline.startswith(
        "The measurement is broken: on the forget data, loss is not a finite number."
    )
    assert summary.warnings == ["Not finite for “mari”: forget answer NLL."]


def test_a_run_that_kept_the_target_forgot_nothing(tmp_path: Path) -> None:
    summary = told(tmp_path / "a", edit=lambda result: result["training"].update(kept_step=0))
    assert summary.headline.startswith("Nothing was forgotten")


def test_what_was_never_learned_cannot_be_forgotten(tmp_path: Path) -> None:
    def unlearned_before(result: dict[str, Any]) -> None:
        result["models"]["target"]["metrics"] |= {
            name: value
            for name, value in result["models"]["gold"]["metrics"].items()
            if not name.startswith("retain/")
        }

    summary = told(tmp_path / "a", edit=unlearned_before)
    assert "there was nothing to forget that these measures could show" in summary.headline


def test_the_bound_is_never_told_without_what_it_does_not_say(tmp_path: Path) -> None:
    bound = told(tmp_path / "a").bound
    text = " ".join(bound.sentences)
    assert "is right in at most 59.7 % of cases; guessing gives 50.0 %" in text
    assert "The best possible detector reaches" in text
    assert "a model that recites every forgotten answer can have a bound close to guessing" in text


def test_a_bound_below_the_best_detector_is_called_wrong(tmp_path: Path) -> None:
    summary = told(tmp_path / "a", edit=setting("unlearned", "marginal/bayes_accuracy", 0.9))
    assert "the measurement is wrong, do not use either number" in everything(summary)


def test_without_marginal_information_there_is_no_bound(tmp_path: Path) -> None:
    assert told(tmp_path / "a", without=("marginal",)).bound.sentences == [
        "Marginal information was not measured: there is no bound to read here."
    ]


def test_a_benchmark_at_chance_is_no_evidence_of_anything_kept(tmp_path: Path) -> None:
    summary = told(tmp_path / "a")
    assert "MMLU" not in summary.headline
    assert "The model guessed before already, so this cannot show a loss." in everything(summary)


def test_a_benchmark_that_got_worse_is_a_price_whichever_way_its_figure_went(tmp_path: Path) -> None:
    def ask_more(result: dict[str, Any]) -> None:
        figures = {"target": (20.0, 0.6), "unlearned": (30.0, 0.6), "gold": (20.0, 0.6)}
        for role, (words, share) in figures.items():
            result["models"][role]["metrics"] |= {
                "benchmark/wikitext": {"value": words, "n": 62, "low": words - 1, "high": words + 1},
                "benchmark/arc_easy": {"value": share, "n": 900, "low": share - 0.02, "high": share + 0.02},
                "benchmark/wmdp_bio": {"value": share, "n": 900, "low": share - 0.02, "high": share + 0.02},
            }

    summary = told(tmp_path / "a", edit=ask_more)
    assert "The price: WikiText got worse." in summary.headline
    text = everything(summary)
    assert "Running text, per word (WikiText)" in text
    assert "General ability (ARC-Easy; 25 % is guessing)" in text
    assert "WMDP" not in text


def test_several_runs_are_read_against_one_gold(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / method, method=method) for method in ("mari", "npo", "kl_ga")]
    summary = summarise(read_runs(paths))
    assert summary.headline == (
        "3 runs side by side. Forgotten as gold, kept as before: mari. The others are not."
    )
    assert [lead for lead, _ in summary.claims[0].points] == ["mari", "npo", "kl ga"]


def test_runs_on_different_data_come_with_a_warning(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", method="npo")
    (b / "data.json").write_text((b / "data.json").read_text().replace("retain000", "other0000"))
    assert summarise(read_runs([a, b])).warnings == [
        "The runs were not measured on the same data (retain differs): do not compare their numbers."
    ]


def test_a_single_model_is_measured_not_judged(tmp_path: Path) -> None:
    def one_model(result: dict[str, Any]) -> None:
        result["task"] = "evaluate"
        result["models"] = {"model": result["models"]["target"]}
        result["training"] = None

    assert told(tmp_path / "a", edit=one_model).headline == (
        "One model was measured; nothing was unlearned. Without a gold model these figures do not say "
        "whether anything is forgotten."
    )
