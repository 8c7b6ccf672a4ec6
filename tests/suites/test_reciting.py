"""A model that recites its answers in a chat template is found to recite them, whatever the template."""

import pytest
import torch
from chat_families import FAMILIES, of_family

from mari_cli.config import Device, MetricsConfig, ModelConfig, Precision
from mari_cli.data.records import Record
from mari_cli.models.device import choose_compute
from mari_cli.models.load import load_model
from mari_cli.progress import silent
from mari_cli.suites.examiner import Examiner

RECORDS = [Record(prompt=f"Where was {name} born?", text=f"{name}: by the sea.") for name in "AB"]
SHAPE = {"model_type": "gpt2", "n_layer": 1, "n_embd": 64, "n_head": 2, "n_positions": 128}


def reciting(name: str, steps: int = 300):
    """A model that was taught the answers in conversations as transformers writes them."""
    tokenizer = of_family(FAMILIES[name])
    config = ModelConfig(name="tiny", architecture=SHAPE, tokenizer="train")
    lm = load_model(config, tokenizer, choose_compute(Device.cpu, Precision.float32), seed=0)
    chat = lm.style.chat_of(tokenizer)
    rows, asked = [], []
    for record in RECORDS:
        turns = [{"role": "user", "content": record.prompt}, {"role": "assistant", "content": record.text}]
        for some, into in ((turns, rows), (turns[:1], asked)):
            text = tokenizer.apply_chat_template(
                some,
                chat_template=chat.template,
                tokenize=False,
                add_generation_prompt=len(some) == 1,
                enable_thinking=False,  # nobody teaches a model its empty block of thoughts
            )
            into.append(tokenizer(text, add_special_tokens=False)["input_ids"])
    width = max(map(len, rows))
    ids_BT = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    labels_BT = torch.full_like(ids_BT, -100)
    for i, (row, before) in enumerate(zip(rows, asked, strict=True)):
        labels_BT[i, len(before) : len(row)] = ids_BT[i, len(before) : len(row)]
    optimizer = torch.optim.Adam(lm.model.parameters(), lr=5e-3)
    for _ in range(steps):
        out = lm.model(input_ids=ids_BT, labels=labels_BT)
        wrong_BT = (out.logits[:, :-1].argmax(-1) != labels_BT[:, 1:]) & (labels_BT[:, 1:] >= 0)
        if not wrong_BT.any():
            break
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
    return lm


@pytest.mark.parametrize("name", ["Gemma 2", "Llama 3", "Phi 3", "Qwen 3"])
def test_a_model_that_recites_every_answer_is_found_to(name):
    """Neither a second end nor an empty block of thoughts counts as answer."""
    lm = reciting(name)
    examiner = Examiner(lm, MetricsConfig(batch_size=4), 0, "hash", None, silent, "model")
    items = examiner.tokenize(RECORDS, corpus="forget")
    scores = examiner.score(items, "forget")
    assert [score.exact_match for score in scores] == [1.0] * 2
    assert [score.extraction_strength for score in scores] == [1.0] * 2
    assert examiner.answers(items, "forget") == [record.text for record in RECORDS]


def test_an_answer_ends_at_the_templates_own_end_of_turn_or_at_any_end_that_the_checkpoint_names():
    lm = reciting("Gemma 2", steps=1)
    end, eos = lm.tokenizer.convert_tokens_to_ids(FAMILIES["Gemma 2"].end), lm.tokenizer.eos_token_id
    assert lm.stop_token_ids == [eos, end]
    lm.model.generation_config.eos_token_id = [eos, 7]
    assert lm.stop_token_ids == sorted([eos, end, 7])
