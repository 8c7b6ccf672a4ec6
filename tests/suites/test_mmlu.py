import logging
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import lm_eval
import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from mari_cli.config import Mmlu
from mari_cli.suites.mmlu import _sample_task, mmlu, parse, sample_questions

TASKS = Path(lm_eval.__file__).parent / "tasks" / "mmlu"


@pytest.fixture(scope="module")
def tokenizer():
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<eos>"],
        show_progress=False,
    )
    bpe.train_from_iterator([question.question for question in sample_questions(limit=1)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>", model_max_length=256)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=256,
            n_embd=32,
            n_layer=2,
            n_head=2,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


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
    task = _sample_task(limit=1)
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


def test_a_random_model_is_at_chance_and_asked_without_a_network(model, tokenizer, monkeypatch):
    def no_network(*_):
        raise AssertionError("the sample needs no network")

    monkeypatch.setattr("socket.socket.connect", no_network)
    estimate = mmlu(model, tokenizer, mode=Mmlu.sample, batch_size=16)
    assert estimate.n == 281
    assert estimate.low < 0.25 < estimate.high
    half = 1.96 * (estimate.value * (1 - estimate.value) / 280) ** 0.5
    assert estimate.high - estimate.value == pytest.approx(half, rel=1e-3)


def test_a_model_that_always_says_b_scores_the_share_of_b(model, tokenizer):
    """The figure is what the model prefers, not an artefact of batching, padding or truncation."""
    (b,) = tokenizer(" B")["input_ids"][-1:]

    class SaysB(GPT2LMHeadModel):
        def forward(self, *args, **options):
            output = super().forward(*args, **options)
            output.logits[..., b] += 1000
            return output

    biased = SaysB(model.config)
    questions = sample_questions(limit=1)
    share = sum(question.answer == 1 for question in questions) / len(questions)
    assert mmlu(biased, tokenizer, mode=Mmlu.sample, limit=1).value == pytest.approx(share)


def test_the_batch_size_does_not_change_the_figure(model, tokenizer):
    one, many = (mmlu(model, tokenizer, mode=Mmlu.sample, limit=1, batch_size=size) for size in (1, 32))
    assert one == many


def test_model_tokenizer_generators_and_loggers_are_left_as_they_were(model, tokenizer, capfd):
    model.train()
    state, level = torch.get_rng_state(), logging.getLogger("lm_eval").level
    mmlu(model, tokenizer, mode=Mmlu.sample, limit=1)
    assert model.training
    assert tokenizer.pad_token is None
    assert torch.equal(torch.get_rng_state(), state)
    assert logging.getLogger("lm_eval").level == level
    assert capfd.readouterr() == ("", "")


def test_off_has_no_figure(model, tokenizer):
    with pytest.raises(ValueError, match="no figure"):
        mmlu(model, tokenizer, mode=Mmlu.off)


@pytest.mark.slow  # lm_eval reads its whole index of tasks
def test_the_full_task_without_a_network_is_an_error_with_a_way_out(tmp_path):
    script = (
        "from mari_cli.suites.mmlu import _full_tasks\n"
        "from mari_cli.errors import UserError\n"
        "try: _full_tasks()\n"
        "except UserError as error: print(error, error.hint, sep='\\n')\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    message, hint = done.stdout.splitlines()
    assert message.startswith("cannot load MMLU: ")
    assert hint == "`metrics.mmlu=sample` works without a network, `metrics.mmlu=off` skips it"
