"""Tokens that follow one another: what is chosen is read as if it had always stood there."""

import pytest
import torch
from tiny_models import GPT2, LLAMA, built

from mari_cli.models.continuation import continued

STARTS = [[5, 6, 7, 8], [9], [10, 11]]


@pytest.mark.parametrize("architecture", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_what_is_chosen_is_read_by_the_next_token_whatever_stands_beside_it(architecture):
    lm = built(architecture)
    seen = []

    def choose(number, logits_BV):
        seen.append(logits_BV.clone())
        return torch.tensor([20 + number, 30 + number, 40 + number], device=logits_BV.device)

    new_BT = continued(lm, STARTS, new_tokens=5, choose=choose)
    assert new_BT.tolist() == [[first + number for number in range(5)] for first in (20, 30, 40)]
    for row, start in enumerate(STARTS):
        for number, logits_BV in enumerate(seen):
            whole = torch.tensor([[*start, *new_BT[row, :number].tolist()]])
            alone_V = lm.model(whole).logits[0, -1]
            torch.testing.assert_close(logits_BV[row], alone_V, rtol=1e-4, atol=1e-5)


def test_without_a_choice_the_most_probable_token_follows_and_an_end_ends_it():
    lm = built(GPT2)
    free = continued(lm, [[5, 6, 7]], new_tokens=6)
    row = [5, 6, 7]
    for token in free[0].tolist():
        assert token == lm.model(torch.tensor([row])).logits[0, -1].argmax().item()
        row.append(token)
    ends = [free[0, 2].item()]
    assert continued(lm, [[5, 6, 7]], new_tokens=6, ends=ends).shape[1] <= 3


def test_a_checkpoints_own_settings_for_generation_are_not_used_and_stay():
    lm = built(GPT2)
    wanted = continued(lm, STARTS, new_tokens=4)
    lm.model.generation_config.repetition_penalty = 9.0
    lm.model.generation_config.max_length = 3
    assert torch.equal(continued(lm, STARTS, new_tokens=4), wanted)
    assert lm.model.generation_config.repetition_penalty == 9.0
