"""What stands for the role `alternative`: other answers, or other labels at the forget items' own targets."""

from types import SimpleNamespace

import pytest

from mari_cli.data.batches import collate
from mari_cli.data.records import Record
from mari_cli.data.tokenize import Item
from mari_cli.errors import UserError
from mari_cli.losses.jensun import JensUnConfig
from mari_cli.suites.standard import Corpus
from mari_cli.tasks.forgetting import alternative_items
from mari_cli.train.step import positions_of

FORGET = Corpus(
    [Record(text="x"), Record(text="y", prompt="z")],
    [Item((7, 8, 9, 1), 1, 0), Item((7, 8, 9, 5, 6, 1), 4, 1)],
)


def relabelled(*tokens: int) -> list[Item]:
    config = SimpleNamespace(loss=JensUnConfig(name="jensun"))
    lm = SimpleNamespace(name="any", tokenizer=lambda text, **_: {"input_ids": list(tokens)})
    return alternative_items(config, lm, FORGET)


def test_the_tokens_of_a_refusal_stand_at_the_targets_of_the_forget_items_over_and_over():
    text, pair = relabelled(3, 4)
    assert text.input_ids == (7, 8, 9, 1)  # after the true tokens before
    assert (text.labels, pair.labels) == ((3, 4, 3), (3, 4))
    assert positions_of([text, pair], [text, pair]).labels_N.tolist() == [3, 4, 3, 3, 4]
    assert collate([text, pair]).labels_N.tolist() == [3, 4, 3, 3, 4]
    assert collate([text]).input_ids_BT.tolist() == [[7, 8, 9, 1]]


def test_a_refusal_without_a_token_is_refused():
    with pytest.raises(UserError, match="makes no token of ' No idea'"):
        relabelled()
