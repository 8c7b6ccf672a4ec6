import pytest

from mari_cli.metrics.generation import recalled, verbatim_rouge_l


def test_rouge_l_is_recall_of_the_truth_so_that_saying_more_costs_nothing():
    assert verbatim_rouge_l("the prize went to Ada and to many others", "the prize went to Ada") == 1.0
    assert verbatim_rouge_l("the prize", "the prize went to Ada") == pytest.approx(2 / 5)


def test_rouge_l_stems_words_and_ignores_case_and_punctuation():
    assert verbatim_rouge_l("She PAINTS towers!", "she painted tower") == 1.0


def test_rouge_l_follows_the_order_of_words():
    assert verbatim_rouge_l("Ada to went", "went to Ada") == pytest.approx(1 / 3)


def test_an_empty_generation_scores_zero():
    assert verbatim_rouge_l("", "the prize went to Ada") == 0.0


@pytest.mark.parametrize(
    "generated", ["She lives in New Orlan.", "new  orlan", "in NEW\nORLAN, by the sea", "(New Orlan)"]
)
def test_a_value_is_recalled_whatever_case_and_white_space(generated):
    assert recalled(generated, "New Orlan")


@pytest.mark.parametrize("generated", ["", "New Orlando", "Anew Orlan", "New, Orlan", "Orlan"])
def test_a_value_is_not_recalled_inside_another_word_or_in_part(generated):
    assert not recalled(generated, "New Orlan")


def test_a_value_may_end_in_a_sign_and_be_written_in_either_unicode_form():
    assert recalled("born in 1912 (approx.)", "(approx.)")
    assert recalled("he is Jose\u0301", "Jos\u00e9")
    assert recalled("in der Hauptstrasse", "Hauptstraße")


def test_an_empty_value_is_refused():
    with pytest.raises(ValueError, match="empty value"):
        recalled("anything", "  ")
