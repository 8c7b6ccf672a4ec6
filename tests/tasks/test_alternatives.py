"""What stands for the role `alternative`: other answers, or other labels at the forget items' own targets."""

from types import SimpleNamespace

import pytest
import torch
from tiny import TINY
from transformers import GPT2Config, GPT2LMHeadModel

from mari_cli import launch
from mari_cli.data.batches import collate
from mari_cli.data.records import Record
from mari_cli.data.tokenize import Item
from mari_cli.errors import UserError
from mari_cli.losses.altpo import AltPOConfig
from mari_cli.losses.jensun import JensUnConfig
from mari_cli.progress import silent
from mari_cli.suites.generate import Sampling, generate
from mari_cli.suites.standard import Corpus
from mari_cli.tasks.alternatives import alternative_items
from mari_cli.tasks.forgetting import Draws
from mari_cli.tasks.unlearn import unlearn
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


PAIRS = Corpus(
    [Record(text="Rome", prompt="Where?"), Record(text="Ada", prompt="Who?")],
    [Item((7, 8, 1), 2, 0), Item((7, 9, 1), 2, 1)],
)


class Words:
    """A tokenizer's part in a language model: each word of an answer one token."""

    name = "any"

    def tokenize(self, records, **_):
        return [Item((7, *map(len, record.text.split())), 1, i) for i, record in enumerate(records)]


def of_file(path) -> list[Item]:
    loss = AltPOConfig(name="altpo", path=str(path))
    config = SimpleNamespace(loss=loss, forget=SimpleNamespace(truncate=False))
    return alternative_items(config, Words(), PAIRS)


def test_the_alternates_of_a_file_are_found_by_their_prompts_and_taken_in_turn(tmp_path):
    path = tmp_path / "alternates.jsonl"
    path.write_text(
        '{"prompt": "Who?", "completion": "Bob"}\n'
        '{"prompt": "Where?", "completion": "in Paris"}\n'
        '{"prompt": "Where?", "completion": "near Berlin"}\n'
    )
    assert [item.labels for item in of_file(path)] == [(2, 5), (3,), (4, 6), (3,)]
    path.write_text('{"prompt": "Who?", "completion": "Bob"}\n')
    with pytest.raises(UserError, match="has no answer to 1 of 2 forget prompts"):
        of_file(path)


def test_each_step_takes_the_next_alternative_of_the_same_forget_items():
    config = SimpleNamespace(train=SimpleNamespace(forget_batch=2, retain_batch=1, steps=4), seed=0)
    items = {
        "forget": [Item((7, i), 1, i) for i in range(3)],
        "retain": [Item((7, 1), 1, 0)],
        "alternative": [Item((7, 10 * turn + i), 1, i) for turn in range(2) for i in range(3)],
    }
    draws = Draws(config, items, AltPOConfig(name="altpo").objective().needs)
    seen = set()
    for step in range(4):
        at = draws.indices_at(step)
        assert at["alternative"] == [3 * (step % 2) + i for i in at["forget"]]
        seen |= set(at["alternative"])
    assert draws.drawn()["alternative"] == sorted(seen)


def test_a_sampled_answer_depends_on_the_seed_and_the_question_and_on_no_batch():
    torch.manual_seed(0)
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 32, "vocab_size": 23}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=1)).eval()
    compute = SimpleNamespace(autocast=lambda: torch.autocast("cpu", enabled=False))
    lm = SimpleNamespace(
        model=model, tokenizer=SimpleNamespace(eos_token_id=1), stop_token_ids=[1], max_length=32,
        compute=compute, device=torch.device("cpu"),
    )  # fmt: skip

    def said(batch_size: int, seed: int = 0, temperature: float = 1.0):
        return generate(
            lm, [(3, 4), (5, 6, 7), (3, 4), (8,)], max_new_tokens=6, batch_size=batch_size, track=silent,
            description="", sampling=Sampling(temperature, seed),
        )  # fmt: skip

    alone = said(1)
    assert alone == said(4) == said(3)
    assert alone != said(1, seed=1)
    assert alone[0] != alone[2]  # the same question drawn twice
    assert said(1, temperature=1e-9) == generate(
        lm, [(3, 4), (5, 6, 7), (3, 4), (8,)], max_new_tokens=6, batch_size=1, track=silent, description=""
    )


def test_sampled_tokens_have_the_probabilities_of_the_model():
    scores = torch.tensor([[0.0, 1.0, 2.0]]).expand(6000, 3)
    chosen = Sampling(2.0, 3).of(range(6000))(0, scores)
    shares = torch.bincount(chosen, minlength=3) / 6000
    expected = (scores[0] / 2).softmax(0)
    assert (shares - expected).abs().max() < 4 * (0.25 / 6000) ** 0.5


@pytest.mark.smoke
def test_the_model_before_writes_its_alternates_once_and_the_run_says_what_it_wrote(tmp_path, cache):
    words = ["loss=altpo", "loss.alternates=2", "loss.max_new_tokens=4"]

    def run(name):
        arguments = [*TINY, *words, f"out={tmp_path / name}", f"cache={cache}"]
        return launch.run(unlearn, launch.prepare(launch.Experiment("unlearn", arguments)))

    first, second = run("a"), run("b")
    assert any("the model before wrote" in note for note in first["notes"])
    assert first["models"]["unlearned"]["hash"] == second["models"]["unlearned"]["hash"]
    assert len(list((cache / "alternates").iterdir())) == 1
