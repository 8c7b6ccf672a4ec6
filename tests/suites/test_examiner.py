"""What a model was asked is kept by content: cut off, it goes on; changed in anything, it is asked anew."""

from dataclasses import replace

import pytest
import torch

from mari_cli.config import Device, MetricsConfig, ModelConfig, Precision
from mari_cli.data.records import Record
from mari_cli.models.device import choose_compute
from mari_cli.models.fingerprint import weights_hash
from mari_cli.models.load import load_model, load_tokenizer
from mari_cli.progress import silent
from mari_cli.suites import examiner as examining
from mari_cli.suites import scores
from mari_cli.suites.examiner import Examiner
from mari_cli.suites.generate import generate
from mari_cli.suites.scores import score

RECORDS = [Record(prompt=f"what is {i}?", text="number " * (i % 7 + 1)) for i in range(20)]

SHAPE = {"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 64}


@pytest.fixture(scope="module")
def lm():
    compute = choose_compute(Device.cpu, Precision.float32)
    config = ModelConfig(name="tiny", architecture=SHAPE, tokenizer="train")
    tokenizer = load_tokenizer(config, [part for r in RECORDS for part in (r.prompt, r.text)])
    return load_model(config, tokenizer, compute, seed=0)


@pytest.fixture
def examiner(lm, tmp_path, monkeypatch):
    monkeypatch.setattr(examining, "PIECE", 6)
    config = MetricsConfig(batch_size=3, max_new_tokens=5)
    return Examiner(lm, config, 0, weights_hash(lm.model), tmp_path, silent, "model")


def forwards(lm, ask):
    """What ``ask`` returns, and how often the backbone ran for it."""
    count = []
    handle = lm.model.base_model.register_forward_pre_hook(lambda *_: count.append(1))
    try:
        return ask(), len(count)
    finally:
        handle.remove()


def test_kept_scores_are_those_of_one_sweep_over_all(lm, examiner):
    items = examiner.tokenize(RECORDS, corpus="questions")
    kept, count = forwards(lm, lambda: examiner.score(items, "questions"))
    assert count == 7  # pieces of 6, 6, 6 and 2 in batches of 3
    plain = score(lm, items, batch_size=3, min_k=0.4, track=silent, description="")
    for one, other in zip(kept, plain.items, strict=True):
        assert one.tokens == other.tokens
        assert one.answer_nll == pytest.approx(other.answer_nll, abs=1e-6)


@pytest.mark.parametrize("rows", [1, 13])
def test_scores_do_not_depend_on_how_many_logits_exist_at_one_time(lm, examiner, rows, monkeypatch):
    items = examiner.tokenize(RECORDS, corpus="questions")
    whole = score(lm, items, batch_size=8, min_k=0.4, track=silent, description="")
    monkeypatch.setattr(scores, "chunk_rows", lambda vocabulary: rows)
    parts = score(lm, items, batch_size=8, min_k=0.4, track=silent, description="")
    for one, other in zip(whole.items, parts.items, strict=True):
        assert dict(one) == pytest.approx(dict(other), abs=1e-5)


def test_the_gap_of_an_item_is_the_mean_over_its_tokens_from_full_logits(lm, examiner):
    items = examiner.tokenize(RECORDS[:5], corpus="questions")
    scored = score(lm, items, batch_size=3, min_k=0.4, track=silent, description="")
    for item, found in zip(items, scored.items, strict=True):
        ids = torch.tensor(item.input_ids)
        with torch.no_grad():
            logits = lm.model(ids.unsqueeze(0)).logits[0, item.supervised_from - 1 : -1]
        true = ids[item.supervised_from :, None]
        others = logits.scatter(-1, true, -torch.inf).sort(descending=True).values[:, :5]
        gaps = logits.gather(-1, true)[:, 0] - others.mean(-1)
        assert found.true_token_gap == pytest.approx(gaps.mean().item(), abs=1e-5)


def test_fewer_logits_exist_at_one_time_where_the_vocabulary_is_larger():
    assert scores.chunk_rows(128_256) * 128_256 * 4 <= scores.CHUNK_BYTES
    assert scores.chunk_rows(10**9) == 8


def test_an_answer_does_not_depend_on_the_questions_beside_it(lm):
    """Not even where these are so long that they leave less room in the context."""
    questions = [[1 + i % 7 for i in range(length)] for length in (3, 40, 44, 45, 45, 60, 63, 64)]

    def said(asked, batch_size):
        settings = {"max_new_tokens": 20, "track": silent, "description": ""}
        return generate(lm, asked, batch_size=batch_size, **settings)

    alone = [said([question], 1)[0] for question in questions]
    assert [len(answer) for answer in alone] == [20, 20, 20, 19, 19, 4, 1, 0]
    assert said(questions, 8) == alone
    assert said(questions[::-1], 3) == alone[::-1]


def test_nobody_asks_twice(lm, examiner):
    items = examiner.tokenize(RECORDS, corpus="questions")
    first, _ = forwards(lm, lambda: (examiner.score(items, "q"), examiner.answers(items, "q")))
    again, count = forwards(lm, lambda: (examiner.score(items, "q"), examiner.answers(items, "q")))
    assert again == first
    assert count == 0


def test_an_examination_that_was_cut_off_goes_on(lm, examiner, monkeypatch):
    items = examiner.tokenize(RECORDS, corpus="questions")
    calls = []

    def failing(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score(*arguments, **options)

    monkeypatch.setattr(examining, "score", failing)
    with pytest.raises(KeyboardInterrupt):
        examiner.score(items, "q")
    monkeypatch.undo()
    monkeypatch.setattr(examining, "PIECE", 6)
    _, count = forwards(lm, lambda: examiner.score(items, "q"))
    assert count == 3  # the third piece of 6 and the last of 2: two of four pieces were kept


@pytest.mark.parametrize(
    "change",
    [
        lambda e: replace(e, weights="other"),
        lambda e: replace(e, config=MetricsConfig(batch_size=3, max_new_tokens=5, min_k=0.2)),
        lambda e: replace(e, lm=replace(e.lm, compute=replace(e.lm.compute, dtype=torch.bfloat16))),
    ],
    ids=["weights", "min_k", "precision"],
)
def test_another_model_or_setting_is_asked_anew(lm, examiner, change):
    items = examiner.tokenize(RECORDS, corpus="questions")
    examiner.score(items, "q")
    _, count = forwards(lm, lambda: change(examiner).score(items, "q"))
    assert count > 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace(text[text.index("answer_nll") + 13 :][:1], "7", 1),
        lambda text: text[:50],
        lambda text: "[]",
        lambda text: "",
    ],
    ids=["another digit", "cut off", "another content", "empty"],
)
def test_a_piece_that_is_not_what_was_kept_is_made_anew(lm, examiner, damage, capsys):
    items = examiner.tokenize(RECORDS, corpus="questions")
    first = examiner.score(items, "q")
    (path, *_) = sorted(examiner.cache.rglob("*.json"))
    path.write_text(damage(path.read_text()))
    again, count = forwards(lm, lambda: examiner.score(items, "q"))
    assert again == first
    assert count in (1, 2)  # that piece alone
    assert "is damaged and is made anew" in " ".join(capsys.readouterr().err.split())
    assert forwards(lm, lambda: examiner.score(items, "q")) == (first, 0)


def test_an_answer_ends_at_the_eos(lm, examiner, monkeypatch):
    items = examiner.tokenize(RECORDS[:2], corpus="questions")
    eos = lm.tokenizer.eos_token_id
    (word,) = lm.tokenizer("what", add_special_tokens=False)["input_ids"][:1]

    def said(input_ids, **_):
        return torch.cat([input_ids, torch.tensor([[word, eos, word], [eos, eos, eos]])], -1)

    monkeypatch.setattr(lm.model, "generate", said)
    found = examiner.answers(items, "q")
    assert sorted(found) == sorted(["", lm.tokenizer.decode([word]).strip()])
