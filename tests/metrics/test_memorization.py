import pytest
import torch

from mari_cli.metrics.memorization import (
    exact_match,
    exact_memorization,
    extraction_strength,
    longest_run,
)


def answer(right: str):
    """A prediction and an answer that agree where ``right`` has a 1."""
    correct = torch.tensor([character == "1" for character in right])
    truth = torch.arange(len(right)) + 5
    return torch.where(correct, truth, truth + 100), truth


@pytest.mark.parametrize(
    ("right", "strength"),
    [
        ("1111", 1.0),
        ("0111", 0.75),
        ("1011", 0.5),
        ("1101", 0.25),
        ("0001", 0.25),
        ("1110", 0.0),  # a correct prefix extracts nothing; others return 1/4 here
        ("0000", 0.0),
        ("1", 1.0),
        ("0", 0.0),
        ("01", 0.5),
    ],
)
def test_extraction_strength_is_the_longest_correct_suffix_over_the_length(right, strength):
    assert extraction_strength(*answer(right)) == strength


@pytest.mark.parametrize(("right", "share"), [("1111", 1.0), ("1100", 0.5), ("0001", 0.25), ("0", 0.0)])
def test_exact_memorization_counts_right_positions_wherever_they_stand(right, share):
    assert exact_memorization(*answer(right)) == share


@pytest.mark.parametrize(
    ("right", "share"),
    [("1111", 1.0), ("0110", 0.5), ("1011", 0.5), ("110111", 0.5), ("1010", 0.25), ("0000", 0.0), ("1", 1.0)],
)
def test_the_longest_run_counts_wherever_it_stands(right, share):
    assert longest_run(*answer(right)) == share


@pytest.mark.parametrize("number", range(64))
def test_the_longest_run_lies_between_the_last_run_and_all_right_tokens(number):
    of = answer(f"{number:06b}")
    assert extraction_strength(*of) <= longest_run(*of) <= exact_memorization(*of)


@pytest.mark.parametrize(("right", "match"), [("1111", 1.0), ("1110", 0.0), ("0111", 0.0), ("1", 1.0)])
def test_exact_match_needs_every_token(right, match):
    assert exact_match(*answer(right)) == match


@pytest.mark.parametrize("score", [exact_match, exact_memorization, extraction_strength, longest_run])
def test_an_answer_without_tokens_is_refused_rather_than_scored(score):
    empty = torch.zeros(0, dtype=torch.long)
    with pytest.raises(ValueError, match="without tokens"):
        score(empty, empty)


@pytest.mark.parametrize("score", [exact_match, exact_memorization, extraction_strength, longest_run])
def test_vectors_of_different_length_are_refused_rather_than_broadcast(score):
    with pytest.raises(ValueError, match="one length"):
        score(torch.tensor([1]), torch.tensor([1, 1]))
