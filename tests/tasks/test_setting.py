"""What a run reads before it begins."""

import json
from dataclasses import replace

import pytest
from tiny import TINY

from mari_cli import launch
from mari_cli.models.device import choose_compute
from mari_cli.tasks.preflight import load_for
from mari_cli.tasks.setting import note_on_template, notes_on_reading, read_setting, tokenize_corpora


def test_a_tokenizer_that_is_trained_here_reads_the_names_of_the_holdout_as_it_does_those_to_forget():
    """Else even gold, which saw neither, tells the two apart by the number of their tokens."""
    config = launch.configured(launch.Experiment("unlearn", []))
    setting = read_setting(config, choose_compute(config.train.device, config.train.precision))
    corpora = tokenize_corpora(config, setting, load_for(config, setting, config.model))
    mean = {
        role: sum(len(item.input_ids) for item in corpus.items) / len(corpus.items)
        for role, corpus in corpora.items()
    }
    assert mean["holdout"] == pytest.approx(mean["forget"], rel=0.02)


def test_records_that_the_context_cuts_are_counted(tmp_path):
    answers = {"forget": ["a " * 400, "b " * 400, "c"], "retain": ["d", "e"]}
    words = ["model.max_length=64", "forget.truncate=true", "holdout=jsonl"]
    for role, of_role in answers.items():
        rows = [json.dumps({"prompt": f"{role} {n}?", "completion": a}) for n, a in enumerate(of_role)]
        (tmp_path / f"{role}.jsonl").write_text("\n".join(rows))
        words.append(f"{role}.path={tmp_path / role}.jsonl")
    config = launch.configured(launch.Experiment("unlearn", ["model=gpt2_tiny", *words]))
    setting = read_setting(config, choose_compute(config.train.device, config.train.precision))
    lm = load_for(config, setting, config.model)
    assert notes_on_reading(tokenize_corpora(config, setting, lm), lm, config.model) == [
        "the context of 64 tokens cuts 2 records of the forget corpus"
    ]


@pytest.mark.parametrize(
    ("chat", "setting", "told"),
    [
        (
            True,
            "prompt_template",
            ["nothing reads `model.prompt_template`: it needs `model.chat_template=off`"],
        ),
        (False, "prompt_template", []),
        (True, "chat_template_date", []),
        (False, "chat_template_date", ["nothing reads `model.chat_template_date`: it needs a chat template"]),
        (True, None, []),
        (False, None, []),
    ],
)
def test_a_setting_of_prompts_that_are_written_in_another_way_is_told(chat, setting, told):
    given = {"prompt_template": "Q: {prompt} A: ", "chat_template_date": "2025-01-31"}
    config = launch.configured(launch.Experiment("unlearn", TINY))
    read = read_setting(config, choose_compute(config.train.device, config.train.precision))
    if chat:
        read.tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    lm = load_for(config, read, config.model)
    model = replace(config.model, **({setting: given[setting]} if setting else {}))
    assert notes_on_reading({}, lm, model) == told


@pytest.mark.parametrize(
    ("own", "others", "words", "told"),
    [
        (None, None, [], False),
        ("{{ messages }}", "{{ messages }}", [], False),
        ("{{ messages }}", None, [], True),
        (None, "{{ messages }}", [], True),
        ("{{ messages }}", None, ["model.chat_template=off"], False),
    ],
)
def test_a_model_beside_that_has_another_chat_template_is_told(own, others, words, told, tmp_path):
    """Its numbers are those of a model that is asked in a way in which it was not trained."""
    config = launch.configured(launch.Experiment("unlearn", TINY))
    read = read_setting(config, choose_compute(config.train.device, config.train.precision))
    for name, template in (("other", others), ("own", own)):
        read.tokenizer.chat_template = template
        read.tokenizer.save_pretrained(tmp_path / name)
        (tmp_path / name / "config.json").write_text('{"model_type": "gpt2"}')
    given = [word for word in TINY if not word.startswith(("model.", "finetune."))]
    given += [f"model.path={tmp_path / 'own'}", *words]
    model = launch.configured(launch.Experiment("unlearn", given)).model.at(str(tmp_path / "other"))
    assert bool(note_on_template(model, "the gold model", read)) is told
