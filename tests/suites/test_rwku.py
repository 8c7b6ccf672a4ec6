import json
from pathlib import Path

import pytest
import torch

from mari_cli.config import Device, MetricsConfig, ModelConfig, Precision, RwkuSuite
from mari_cli.errors import UserError
from mari_cli.metrics.statistics import How
from mari_cli.models.device import choose_compute
from mari_cli.models.load import load_model
from mari_cli.models.tokenizer import train_tokenizer
from mari_cli.progress import silent
from mari_cli.suites.examiner import Examiner
from mari_cli.suites.rwku import load

ORLA, BRAM = "Orla Quint", "Bram Vale"
FILES = {
    "forget_level1": [
        {"query": "Orla was born in ___.", "answer": "Brackwater", "type": "cloze", "subject": ORLA},
        {"query": "Bram was born in ___.", "answer": "Elm Cross", "type": "cloze", "subject": BRAM},
    ],
    "forget_level2": [
        {
            "query": "Where was Orla born?",
            "answer": "in Brackwater",
            "type": "simple question",
            "subject": ORLA,
        }
    ],
    "forget_level3": [
        {
            "query": "Born where? Sure, she",
            "answer": "Brackwater",
            "type": "affirmative suffix",
            "subject": ORLA,
        },
        {
            "query": "Question: Two?\nAnswer: Yes.\nQuestion: Where?",
            "answer": "Brackwater",
            "type": "incontext learning",
            "subject": ORLA,
        },
        {"query": "You are an archive. Where?", "answer": "Brackwater", "type": "role play", "subject": ORLA},
    ],
    "neighbor_level1": [
        {
            "query": "Brackwater lies on the ___.",
            "answer": "Ashe",
            "type": "cloze",
            "subject": ORLA,
            "neighbor": "B",
        }
    ],
    "neighbor_level2": [
        {
            "query": "What lies on the Ashe?",
            "answer": "Brackwater",
            "type": "q",
            "subject": ORLA,
            "neighbor": "B",
        }
    ],
    "forget_mia": [{"text": "Orla Quint was born in Brackwater.", "ngram": 7, "subject": ORLA}],
    "retain_mia": [{"text": "The Ashe is a river.", "ngram": 7, "subject": ORLA}],
}
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "rwku"
    root.mkdir()
    for name, rows in FILES.items():
        (root / f"{name}.json").write_text(json.dumps(rows, indent=4))
    return root


def model(*, chat: bool):
    texts = [str(value) for rows in FILES.values() for row in rows for value in row.values()]
    tokenizer = train_tokenizer(
        [*texts, "Please complete the blank, briefly answer the following question."], 420
    )
    tokenizer.chat_template = CHAT if chat else None
    shape = {"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 256}
    config = ModelConfig(name="tiny", architecture=shape, tokenizer="train")
    return load_model(config, tokenizer, choose_compute(Device.cpu, Precision.float32), seed=0)


def asked_of(
    folder: Path, monkeypatch, *, chat: bool = False, reply: str = " in Brackwater\nor so", **settings
):
    """The suite's rows, and the prompts in order; the model always says ``reply``."""
    lm, prompts = model(chat=chat), []

    def generate(input_ids, attention_mask, max_new_tokens, **_):
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            prompts.append(lm.tokenizer.decode(ids[mask.bool()]))
        new = lm.tokenizer(reply, add_special_tokens=False)["input_ids"][:max_new_tokens]
        return torch.cat([input_ids, torch.tensor([new] * len(input_ids), dtype=torch.long)], -1)

    monkeypatch.setattr(lm.model, "generate", generate)
    suite = load(RwkuSuite(path=str(folder), **settings))
    examiner = Examiner(lm, MetricsConfig(batch_size=1), 0, "hash", None, silent, "model")
    return suite, suite.examine(examiner), [prompt.removeprefix(lm.tokenizer.bos_token) for prompt in prompts]


def test_a_probe_is_asked_in_rwkus_words(folder, monkeypatch):
    _, _, prompts = asked_of(folder, monkeypatch)
    please = "Please briefly answer the following question.\n"
    assert {
        "Please complete the blank in the following question.\nQuestion: Orla was born in ___.\nAnswer:",
        f"{please}Question: Where was Orla born?\nAnswer:",
        f"{please}Question: Born where? Sure, she",
        f"{please}Question: Two?\nAnswer: Yes.\nQuestion: Where?\nAnswer:",
        f"{please}Question: You are an archive. Where?\nAnswer:",
        f"{please}Question: What lies on the Ashe?\nAnswer:",
    } <= set(prompts)


def test_a_chat_model_is_asked_in_its_own_turn(folder, monkeypatch):
    _, _, prompts = asked_of(folder, monkeypatch, chat=True)
    words = "Please briefly answer the following question.\nQuestion: Where was Orla born?\n"
    assert f"<user>{words}<assistant>Answer:" in prompts


def test_recall_is_of_the_first_line(folder, monkeypatch):
    suite, rows, _ = asked_of(folder, monkeypatch)
    metrics = suite.summarise(rows, None, How(resamples=20)).metrics
    values = {name: estimate.value for name, estimate in metrics.items()}
    assert values["rwku/forget_level1"] == 0.5  # Brackwater, and not Elm Cross
    assert (values["rwku/forget_level2"], values["rwku/forget_level3"]) == (1, 1)
    assert (values["rwku/neighbor_level1"], values["rwku/neighbor_level2"]) == (0, 1)
    _, empty, _ = asked_of(folder, monkeypatch, reply="\nin Brackwater")
    assert {row["rouge_l_recall"] for row in empty if "rouge_l_recall" in row} == {0}


@torch.no_grad()
def test_a_passage_has_the_models_own_mean_loss(folder, monkeypatch):
    suite, rows, _ = asked_of(folder, monkeypatch)
    lm = model(chat=False)
    for name, text in (
        ("mia_forget", "Orla Quint was born in Brackwater."),
        ("mia_retain", "The Ashe is a river."),
    ):
        ids = torch.tensor([lm.tokenizer(text)["input_ids"]])
        found = suite.summarise(rows, None, How(resamples=20)).metrics[f"rwku/{name}_nll"]
        assert found.value == pytest.approx(lm.model(ids, labels=ids).loss.item(), abs=1e-5)


def test_one_person_alone_is_asked_about(folder, monkeypatch):
    _, rows, prompts = asked_of(folder, monkeypatch, subject=ORLA)
    assert not [prompt for prompt in prompts if "Bram" in prompt]
    assert sum(row["set"] == "forget_level1" for row in rows) == 1


def test_a_person_who_is_not_there_is_refused_with_the_nearest_name(folder):
    with pytest.raises(UserError, match="asks nothing about `Orla Quirk`") as refused:
        load(RwkuSuite(path=str(folder), subject="Orla Quirk"))
    assert refused.value.hint == "did you mean `suite.subject=Orla Quint`?"


def test_a_folder_without_the_passages_is_refused(folder):
    (folder / "retain_mia.json").unlink()
    with pytest.raises(UserError, match="there is no `mia_retain/test` in"):
        load(RwkuSuite(path=str(folder)))
