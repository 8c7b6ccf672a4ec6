"""Every metric has a page that says what a reviewer asks for."""

import re
from dataclasses import fields

import pytest
from markdown_it import MarkdownIt

from mari_cli.config import MetricsConfig
from mari_cli.docs.pages import find, metric_pages, page_about
from mari_cli.errors import UserError
from mari_cli.suites.registry import METRICS

PAGES = metric_pages()
HEADINGS = ("Definition", "Reading", "Degenerate cases", "Variants", "Source")
"""What the page of a metric must say."""
THEIRS = {"prob_mean", "byte_perplexity", "log_truth_ratio"}
"""Names of others, and of columns, in backticks."""


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_of_the_registry_has_a_page(metric):
    assert page_about(metric)


@pytest.mark.parametrize("page", PAGES.values(), ids=lambda page: page.name)
def test_every_page_says_definition_reading_degenerate_cases_variants_and_source(page):
    lines = page.text.splitlines()
    assert lines[0] == f"# {page.title}"
    assert lines[2].startswith("In results: `")
    assert tuple(line.removeprefix("## ") for line in lines if line.startswith("## ")) == HEADINGS
    sections = re.split(r"^## .*$", page.text, flags=re.MULTILINE)
    assert all(section.strip() for section in sections)
    assert max(map(len, lines)) <= 120


def test_settings_that_a_page_names_exist():
    settings = {f"metrics.{field.name}" for field in fields(MetricsConfig)}
    for page in {page_about(metric).name: page_about(metric) for metric in METRICS}.values():
        assert set(re.findall(r"`(metrics\.\w+)", page.text)) <= settings, page.name


def test_metrics_and_pages_that_a_page_names_exist():
    known = {*PAGES, *(pattern.rpartition("/")[2] for page in PAGES.values() for pattern in page.patterns)}
    for page in PAGES.values():
        names = set(re.findall(r"`([a-z]+(?:_[a-z0-9]+)+)`", page.text))
        assert names <= known | THEIRS, page.name


def test_pages_need_no_network_and_hold_no_html():
    for page in [*PAGES.values(), find("statistics")]:
        assert "http" not in page.text
        kinds = {token.type for token in MarkdownIt("commonmark").enable("table").parse(page.text)}
        assert not kinds & {"html_block", "image"}
        assert not re.search(r"<\w+[^>]*>", page.text)


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("forget/answer_nll", "answer_nll"),
        ("holdout/answer_nll", "answer_nll"),
        ("privacy/loss_auc", "loss"),
        ("privacy/loss_tpr_at_1_fpr", "tpr_at_1_fpr"),
        ("muse/min_k_plus_plus_tpr_at_1_fpr", "tpr_at_1_fpr"),
        ("tofu/zlib_worst_threshold_advantage", "worst_threshold_advantage"),
        ("tofu/forget_quality_open_unlearning", "forget_quality"),
        ("marginal/token", "marginal_information"),
        ("tofu/forget/truth_ratio", "truth_ratio"),
        ("tofu/forget/truth_ratio_arithmetic", "truth_ratio_arithmetic"),
        ("tofu/authors/probability", "probability"),
        ("tofu/forget_quality_ks", "forget_quality"),
        ("benchmark/mmlu_sample", "mmlu"),
        ("benchmark/arc_challenge", "arc"),
        ("benchmark/sciq", "lm_eval"),
        ("muse/knowledge_retain", "knowledge_memorization"),
        ("muse/min_k_auc", "min_k"),
        ("muse/privleak", "privleak"),
        ("rwku/neighbor_level2", "rwku"),
    ],
)
def test_a_page_serves_its_metric_over_all_sets(name, page):
    assert page_about(name).name == page
    assert find(name).name == page


def test_a_page_is_found_by_its_name_and_by_the_bare_name_of_its_metric():
    assert find("truth_ratio").title == "Truth ratio"
    assert find("verbatim_rouge_l").name == "rouge_l_recall"
    assert find("statistics").title == "Intervals, differences and seeds"


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="no page about `truth_ration`") as refused:
        find("truth_ration")
    assert refused.value.hint == "did you mean `truth_ratio`?"


def test_no_two_pages_are_about_one_metric_to_the_same_degree():
    patterns = [pattern for page in PAGES.values() for pattern in page.patterns]
    assert len(patterns) == len(set(patterns))
