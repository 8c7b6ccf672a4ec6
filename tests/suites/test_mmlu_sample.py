"""MMLU's development questions out of lm_eval's wheel."""

from collections import Counter
from pathlib import Path

import lm_eval
import pytest
import yaml
from benchmark_cases import examiner, model, says_b

from mari_cli.suites.benchmarks import benchmarks
from mari_cli.suites.mmlu_sample import parse, sample_questions, sample_task

TASKS = Path(lm_eval.__file__).parent / "tasks" / "mmlu"


def test_all_questions_of_the_wheel_are_read_but_one_that_has_a_fifth_choice():
    carried = [
        len(yaml.safe_load(path.read_text(encoding="utf-8"))["fewshot_config"]["samples"])
        for path in (TASKS / "flan_cot_fewshot").glob("mmlu_*.yaml")
    ]
    assert Counter(carried) == {5: 54, 4: 3}
    questions = sample_questions()
    assert len(questions) == sum(carried) - 1 == 281
    by_subject = Counter(question.subject for question in questions)
    assert len(by_subject) == 57
    assert [subject for subject, count in by_subject.items() if count == 3] == ["college_chemistry"]


def test_every_question_has_four_choices_and_the_answers_are_spread_over_them():
    questions = sample_questions()
    assert all(question.question and all(question.choices) for question in questions)
    assert min(Counter(question.answer for question in questions).values()) > 281 / 4 - 10


def test_a_question_is_cut_into_its_parts():
    question = parse(
        "astronomy",
        "Which is a star?\n(A) Sirius (B) the Moon (C) Mars, (or not) (D) none of (the) above",
        "Let's think step by step. The answer is (A) or so it seems. The answer is (C).\n\n",
    )
    assert question.question == "Which is a star?"
    assert question.choices == ("Sirius", "the Moon", "Mars, (or not)", "none of (the) above")
    assert question.answer == 2


def test_a_fifth_choice_that_is_right_leaves_the_question_out():
    assert parse("x", "Q (A) 1 (B) 2 (C) 3 (D) 4 (E) 5", "The answer is (E).") is None


@pytest.mark.parametrize(
    ("question", "target"), [("Q (A) 1 (B) 2", "The answer is (A)."), ("Q (A) 1 (B) 2 (C) 3 (D) 4", "Hm.")]
)
def test_a_sample_of_another_shape_is_an_error_and_not_skipped(question, target):
    with pytest.raises(ValueError, match="not a question"):
        parse("x", question, target)


def test_a_limit_is_per_subject():
    assert Counter(question.subject for question in sample_questions(limit=2)).most_common()[-1][1] == 2
    assert len(sample_questions(limit=2)) == 114


def test_the_sample_is_asked_in_the_words_of_the_stock_task():
    stock = yaml.safe_load((TASKS / "default" / "_default_template_yaml").read_text())
    task = sample_task(limit=1)
    for field in ("doc_to_text", "doc_to_choice", "doc_to_target", "output_type", "metric_list"):
        assert getattr(task.config, field) == stock[field]
    document = task.test_docs()[0]
    assert task.fewshot_context(document, num_fewshot=0) == (
        "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
        "Statement 1 | Every element of a group generates a cyclic subgroup of the group. Statement 2 | The "
        "symmetric group S_10 has 10 elements.\nA. True, True\nB. False, False\nC. True, False\n"
        "D. False, True\nAnswer:"
    )
    description = yaml.safe_load((TASKS / "default" / "mmlu_abstract_algebra.yaml").read_text())[
        "description"
    ]
    assert task.fewshot_context(document, num_fewshot=0).startswith(description)


def test_a_random_model_is_at_chance_and_asked_without_a_network(monkeypatch):
    def no_network(*_):
        raise AssertionError("the sample needs no network")

    monkeypatch.setattr("socket.socket.connect", no_network)
    figures, rows = benchmarks(examiner(model(), benchmarks=["mmlu_sample"], batch_size=16))
    found = figures["benchmark/mmlu_sample"]
    assert found.n == len(rows) == 281
    assert found.low < 0.25 < found.high
    p, z, n = found.value, 1.959964, 281  # Wilson's interval
    half = z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    assert found.high == pytest.approx((p + z**2 / (2 * n) + half) / (1 + z**2 / n), rel=1e-6)


def test_a_model_that_always_says_b_scores_the_share_of_b():
    """The figure is what the model prefers, not an artefact of batching, padding or truncation."""
    asking = examiner(says_b(model()), benchmarks=["mmlu_sample"], benchmark_limit=1)
    questions = sample_questions(limit=1)
    share = sum(question.answer == 1 for question in questions) / len(questions)
    assert benchmarks(asking)[0]["benchmark/mmlu_sample"].value == pytest.approx(share)
