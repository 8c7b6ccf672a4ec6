"""The card of a model: what the hub reads of it, what people read, and what must not stand in it."""

import re

import pytest
import yaml
from huggingface_hub import ModelCard
from synthetic_run import write_run

from mari_cli.report.model_card import model_card
from mari_cli.report.read import read_run


def config_with(run, **sections) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    for name, section in sections.items():
        config[name] = {**config.get(name, {}), **section} if isinstance(section, dict) else section
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def card(run) -> ModelCard:
    return ModelCard(model_card(read_run(run)))


def test_the_hub_reads_base_tags_library_and_every_number_with_n_and_interval(tmp_path):
    run = write_run(tmp_path / "run")
    config_with(run, model={"path": "HuggingFaceTB/SmolLM2-135M"})
    data = card(run).data
    assert (data.base_model, data.base_model_relation) == ("HuggingFaceTB/SmolLM2-135M", "finetune")
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert {"mari", "machine-unlearning"} <= set(data.tags)
    metrics = read_run(run).models["unlearned"].metrics
    found = {result.metric_type: result for result in data.eval_results}
    assert {"forget/exact_match", "privacy/loss_auc", "tofu/forget_quality"} & set(found)
    for name, result in found.items():
        args = result.metric_args
        assert result.metric_value == pytest.approx(metrics[name].value)
        assert (args["n"], args["low"]) == (metrics[name].n, pytest.approx(metrics[name].low))
    assert found["forget/exact_match"].dataset_name == "own corpora"


def test_a_model_that_lay_here_is_no_base_of_the_hub(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run")
    for path in ("/models/secret", "~/models/secret", "a/b/c", "here/it"):
        (tmp_path / "here" / "it").mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(tmp_path)
        config_with(run, model={"path": path})
        assert card(run).data.base_model is None
        assert "secret" not in str(card(run))


def test_people_read_numbers_of_all_models_and_how_far_it_is_from_gold(tmp_path):
    run = write_run(tmp_path / "run")
    text = str(card(run))
    assert "| metric | before | now | gold | n |" in text
    row = re.search(r"\| forget exact match \|(.*)\|", text)
    assert row is not None
    assert len(re.findall(r"\d \[\d", row[1])) == 3
    assert "160 records were to be forgotten" in text
    assert "## How far from gold" in text
    assert "that is suppression, measured, and no deletion" in " ".join(text.split())
    without = str(card(write_run(tmp_path / "other", without=("gold",))))
    assert "| metric | before | now | n |" in without
    assert "The distance to gold is not known" in without


def test_requests_are_named_and_what_is_private_is_not(tmp_path):
    def typed(result) -> None:
        result["command"] = [
            "mari",
            "unlearn",
            "forget.path=/home/Anna Berg/letters of Anna/all.jsonl",
            "retain.path=[~/rest/a.jsonl,'/srv/b.jsonl']",
            "request.id=R-1,`2`|<b>",
            "request.note=of Anna Berg",
            "request.key=/keys/ours",
            "loss=npo",
            "model.prompt_template=Q: {prompt}\nA: ",
        ]

    run = write_run(tmp_path / "run", edit=typed)
    config_with(run, request={"id": "R-1, `2`|<b>, R-1", "note": "of Anna Berg", "key": "/keys/ours"})
    text = str(card(run))
    assert "`R-1`" in text
    assert "loss=npo" in text
    assert "forget.path=…/all.jsonl" in text
    assert "…/a.jsonl" in text
    for private in ("Anna", "/keys", "/srv", "~/rest", "request.note", "request.key"):
        assert private not in text
    assert not [line for line in text.splitlines() if line.startswith("A: ")]


def test_no_word_of_an_example_or_an_item_is_in_it(tmp_path):
    said = [{"prompt": "Who is Zebulon?", "answer": "Quixotic", "target": "Xylem", "unlearned": "Yttrium"}]
    text = str(card(write_run(tmp_path / "run", examples=said)))
    assert not {"Zebulon", "Quixotic", "Xylem", "Yttrium"} & set(re.findall(r"\w+", text))


def test_adapters_are_loaded_with_their_base(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "checkpoint").mkdir()
    (run / "checkpoint" / "adapter_config.json").write_text("{}")
    config_with(run, model={"path": "somebody/base"})
    found = card(run)
    assert (found.data.library_name, found.data.base_model_relation) == ("peft", "adapter")
    assert 'from_pretrained("somebody/base")' in str(found)


def test_a_fine_tuned_model_says_what_it_learned(tmp_path):
    def tuned(result) -> None:
        result.update(task="finetune", loss=None)
        result["models"] = {"model": result["models"]["gold"]}

    run = write_run(tmp_path / "run", edit=tuned)
    config_with(run, corpora="retain")
    text = str(card(run))
    assert "It was trained on the retain corpus alone." in text
    assert "| metric | now | n |" in text
    assert "machine-unlearning" not in text


def test_a_number_that_is_not_finite_is_no_number_of_the_hub(tmp_path):
    def broken(result) -> None:
        result["models"]["unlearned"]["metrics"]["forget/answer_nll"]["value"] = None

    found = card(write_run(tmp_path / "run", edit=broken))
    assert "forget/answer_nll" not in {result.metric_type for result in found.data.eval_results}
    assert "| forget answer NLL |" in str(found)
