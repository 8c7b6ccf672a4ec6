"""Bad input, from the command line: one line `error:`, one line `hint:`, exit code 2, nothing is written."""

# ruff: noqa: E501 (a case a line reads best)

import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mari_cli.cli import main
from mari_cli.config import Device, ModelConfig, Precision
from mari_cli.models.device import choose_compute
from mari_cli.models.load import load_model
from mari_cli.models.tokenizer import train_tokenizer

ARCHITECTURE = {"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 64}
OWN = "model.path=model forget.path=letters.jsonl retain.path=rest.jsonl metrics=fast"
"""A run of the user's own model and data, without anything wrong."""
no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")


def pairs(names: str, state: str) -> list[dict[str, str]]:
    return [{"prompt": f"How is {name}?", "completion": f"{name} is {state}."} for name in names]


def json_lines(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


LETTERS, REST, UNSEEN = pairs("ABCD", "ill"), pairs("EFGHIJ", "well"), pairs("KLMN", "ill")
FILES = {
    "letters.jsonl": json_lines(LETTERS),
    "rest.jsonl": json_lines(REST),
    "unseen.jsonl": json_lines(UNSEEN),
    "overlapping.jsonl": json_lines([*REST, LETTERS[0], LETTERS[2]]),
    "some.jsonl": json_lines([LETTERS[0], LETTERS[2]]),
    "empty.jsonl": "\n",
    "fields.jsonl": json_lines([{"frage": "Wie geht es A?", "antwort": "Gut."}]),
    "malformed.jsonl": json_lines(LETTERS[:2]) + '{"prompt": "How is\n',
    "long.jsonl": json_lines(
        [*LETTERS, *({"prompt": f"{i}?", "completion": "on and on " * 40} for i in range(3))]
    ),
    "long_prompt.jsonl": json_lines([*LETTERS, {"prompt": "on and on " * 40, "completion": "Yes."}]),
    "null.jsonl": '{"prompt": "How is A?", "completion": null}\n',
    "unanswered.jsonl": '{"messages": [{"role": "user", "content": "How is A?"}]}\n',
    "semicolons.csv": "question;answer\nHow is A?;Ill.\n",
    "book.txt": "\n\n".join(f"Chapter {i}. It rained, and nobody came to number {i}. " * 9 for i in range(9)),
    "names.txt": "Orla Venn\n\nUdo\n",
    "marks.txt": "?\n.\n",
    "nameless.jsonl": json_lines([{"prompt": "How is?", "completion": "is."}]),
    "notes.docx": "x",
    "typo.yaml": "defaults: [unlearn, _self_]\nloss:\n  mari_wait: 3\n",
    "taken/thesis.tex": "x",
    "spoilt/answers": "x",
}


def edit_json(path: Path, **values: object) -> None:
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    """A directory as a user's: corpora, a good model, and some that are not."""
    root = tmp_path_factory.mktemp("workshop")
    for name, text in FILES.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    tokenizer = train_tokenizer([FILES["letters.jsonl"], FILES["rest.jsonl"]], 300)
    config = ModelConfig(name="tiny", architecture=ARCHITECTURE, tokenizer="train")
    load_model(config, tokenizer, choose_compute(Device.cpu, Precision.float32), seed=0).save(root / "model")

    def variant(name: str) -> Path:
        return Path(shutil.copytree(root / "model", root / name))

    words = train_tokenizer(FILES.values(), 320)
    words.save_pretrained(root / "words")
    load_model(config, words, choose_compute(Device.cpu, Precision.float32), seed=0).save(
        root / "other_words"
    )
    brief = ModelConfig(name="brief", architecture=ARCHITECTURE | {"n_positions": 8}, tokenizer="train")
    load_model(brief, tokenizer, choose_compute(Device.cpu, Precision.float32), seed=0).save(root / "brief")
    rotated = variant("rotated") / "tokenizer.json"  # as many tokens, two of them under each other's number
    content = json.loads(rotated.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    rotated.write_text(json.dumps(content))
    edit_json(variant("no_eos") / "tokenizer_config.json", eos_token=None)
    edit_json(variant("own_code") / "config.json", model_type="own", auto_map={"AutoConfig": "own.C"})
    edit_json(variant("fewer_layers") / "config.json", n_layer=1)
    tensors = load_file(variant("misfit") / "model.safetensors")
    del tensors["transformer.h.1.mlp.c_fc.weight"]
    save_file(tensors, root / "misfit" / "model.safetensors", {"format": "pt"})
    edit_json(variant("quantised") / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    (variant("lost") / "inputs.json").write_text("{}")
    pickled = variant("pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    adapter = variant("adapter")
    (adapter / "config.json").unlink()
    (adapter / "model.safetensors").unlink()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "/gone/model"}')
    (root / "weightless").mkdir()
    shutil.copy(root / "model" / "config.json", root / "weightless")
    return root


def everything(root: Path) -> dict[str, int]:
    """Every file and directory below, with the time of its last change."""
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in sorted(root.rglob("*"))}


@pytest.fixture
def refused(workshop, tmp_path, monkeypatch, capfd) -> Callable[[str], tuple[str, str]]:
    """`mari …` in this process, which must refuse; what it says as error and as hint."""
    home = tmp_path / "home"
    home.mkdir()
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    for name, path in {"HOME": home, "NETRC": home / "netrc", "MARI_CACHE": workshop / "cache"}.items():
        monkeypatch.setenv(name, str(path))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(workshop)

    def call(command: str) -> tuple[str, str]:
        before = everything(workshop)
        monkeypatch.setattr(sys, "argv", ["mari", *shlex.split(command)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        assert (stop.value.code, out) == (2, ""), err
        lines = err.splitlines()
        assert len(lines) == 2, err
        assert lines[0].startswith("error: ")
        assert lines[1].startswith("  hint: ")
        assert everything(workshop) == before
        return lines[0].removeprefix("error: "), lines[1].removeprefix("  hint: ")

    return call


BAD = {
    # what the command line says
    "an unknown key": (f"unlearn {OWN} train.stepps=1", "unknown config key `train.stepps`", "`train.steps`"),
    "an unknown option": (f"unlearn {OWN} loss=nppo", "no loss named `nppo`", "`npo`"),
    "an unknown file": ("unlearn -c nowhere.yaml", "no file `nowhere.yaml`", ""),
    "an unknown key in a file": ("unlearn -c typo.yaml", "unknown config key `loss.mari_wait`", "mari_weight"),
    "an impossible value": (f"unlearn {OWN} loss.prior=1.5", "`loss.prior` must be between 0 and 1", ""),
    "an unknown field of an architecture": ("unlearn +model.architecture.n_layr=1 out=out", "`model.architecture.n_layr`: a `gpt2` has no", "n_layer"),
    # corpora
    "forget and retain share records": (f"unlearn {OWN} retain.path=overlapping.jsonl", "share 2 records", "`retain.drop_overlap=true`"),
    "an empty corpus": (f"unlearn {OWN} forget.path=empty.jsonl", "the forget corpus is empty", "`forget.path`"),
    "a field that is not there": (f"unlearn {OWN} forget.path=fields.jsonl", "it has `frage`, `antwort`", "`forget.prompt_field`"),
    "a field that was asked for and is not there": (f"unlearn {OWN} forget.path=fields.jsonl forget.prompt_field=frag forget.completion_field=antwort", "no field `frag`; it has `frage`, `antwort`", "`frage`"),
    "malformed JSON": (f"unlearn {OWN} forget.path=malformed.jsonl", "malformed JSON in `malformed.jsonl`, line 3", ""),
    "a null for an answer": (f"unlearn {OWN} retain.path=null.jsonl", "`completion` in record 1 of `null.jsonl` is null", ""),
    "a file of an unknown kind": (f"unlearn {OWN} forget.path=notes.docx", "`.docx` are not supported", "`.jsonl`"),
    "a corpus that is not there": (f"unlearn {OWN} forget.path=lettres.jsonl", "no such file: `lettres.jsonl`", "`letters.jsonl`"),
    "no retain corpus": ("unlearn model.path=model forget.path=letters.jsonl", "there is no retain corpus", "`retain.path`"),
    "a data set of the hub without network": (f"unlearn {OWN} forget.path=some-owner/letters", "`some-owner/letters`", "connection"),
    "records longer than the context": (f"unlearn {OWN} forget.path=long.jsonl", "3 of 7 records of the forget corpus are longer than 64 tokens", "`forget.truncate=true`"),
    "a prompt that fills the context": (f"unlearn {OWN} forget.path=long_prompt.jsonl forget.truncate=true", "1 of 5 prompts of the forget corpus leave no room", "shorten"),
    "blocks of one token": (f"unlearn {OWN} forget.path=book.txt forget.block_size=1", "a block of 1 token", "`forget.block_size`"),
    "blocks longer than the context": (f"unlearn {OWN} forget.path=book.txt forget.block_size=65", "`forget.block_size=65` is longer than the 64 tokens", "at most 64"),
    "a conversation without an answer": (f"unlearn {OWN} forget.path=unanswered.jsonl", "ends with a turn of the `user`", "of the assistant's"),
    "cells between semicolons": (f"unlearn {OWN} forget.path=semicolons.csv", "separated by semicolons", "commas"),
    "a name of somebody's home": (f"unlearn {OWN} forget.path=~t.jsonl", "no such file: `~t.jsonl`", ""),
    "a name that no file can have": (f"unlearn {OWN} forget.path={'x' * 256}", "`forget.path` is too long", "shorten"),
    "an argument of a chat template that is not there": (f"unlearn {OWN} model.chat_template_args.enable_thinking=false", "no chat template is used", "leave it out"),
    "a line break that is none": (f"unlearn {OWN} 'model.prompt_template=\"{{prompt}}\\n\"'", "has a backslash and a letter", "in a shell"),
    "an empty answer that is rather given": (f"unlearn {OWN} loss=dpo 'loss.answers=[\"\"]'", "`loss.answers[0]` is empty", ""),
    # models
    "a model that is not there": (f"unlearn {OWN} model.path=./modell", "no model at `./modell`", "`model.path`"),
    "a model of the hub without network": (f"unlearn {OWN} model.path=some-owner/some-model", "`some-owner/some-model` is no local directory", "connection"),
    "a tokenizer without EOS": (f"unlearn {OWN} model.path=no_eos", "the tokenizer of `no_eos` has no EOS token", "`model.tokenizer=…`"),
    "a model with code of its own": (f"unlearn {OWN} model.path=own_code model.tokenizer=model", "the model at `own_code` runs Python code of its own", "`model.trust_remote_code=true`"),
    "pickled weights": (f"unlearn {OWN} model.path=pickled", "`pytorch_model.bin`", "safetensors"),
    "a quantised model": (f"unlearn {OWN} model.path=quantised", "cannot load a model from `quantised`", "give its weights from before"),
    "a model without weights": (f"unlearn {OWN} model.path=weightless model.tokenizer=model", "cannot load a model from `weightless`", "safetensors"),
    "a checkpoint that does not fit": (f"unlearn {OWN} model.path=misfit", "1 weight is missing, `transformer.h.1.mlp.c_fc.weight`", "belong together"),
    "a config of fewer layers": (f"unlearn {OWN} model.path=fewer_layers", "has more layers than the config says", "belong together"),
    "a tokenizer of another model": (f"unlearn {OWN} model.tokenizer=words", "the tokenizer has", "belong together"),
    "a new tokenizer for an old model": (f"unlearn {OWN} model.tokenizer=train", "`model` was trained with another vocabulary", "leave out `model.tokenizer`"),
    "more than the context": (f"unlearn {OWN} model.max_length=65", "exceeds the context of `model`, 64 tokens", "leave it out"),
    "a gold model that is not there": (f"unlearn {OWN} gold=nowhere", "no gold model at `nowhere`", "`gold` is"),
    "a gold model that does not fit": (f"unlearn {OWN} gold=misfit", "the checkpoint at `misfit` does not fit", "belong together"),
    "a gold model that reads other tokens": (f"unlearn {OWN} gold=other_words", "the gold model at `other_words` has another tokenizer", "the tokenizer of the run's model"),
    "a gold model of a shorter context": (f"unlearn {OWN} gold=brief", "the context of the gold model is 8 tokens, and the longest item has", "the context of the run's"),
    # adapters, and what is stepped
    "adapters of rank 0": (f"unlearn {OWN} model.lora.rank=0", "`model.lora.rank` must be > 0, got 0", ""),
    "a rank that is no number": (f"unlearn {OWN} model.lora.rank=high", "`model.lora.rank` must be a whole number", ""),
    "settings of adapters that are not asked for": (f"unlearn {OWN} model.lora.alpha=8", "`model.lora.alpha` needs `model.lora.rank`", ""),
    "adapters where nothing is": (f"unlearn {OWN} model.lora.rank=4 model.lora.targets=[c_atn]", "has no linear layer called `c_atn`", "`c_attn`"),
    "adapters at the head": (f"finetune {OWN} model.lora.rank=4 model.lora.targets=[lm_head]", "`lm_head` is the head", "leave it out"),
    "dropout of adapters alone": (f"unlearn {OWN} model.lora.rank=4 model.lora.dropout=0.1", "nothing would read `model.lora.dropout`: it needs `train.dropout=true`", "leave it out"),
    "an adapter of a model that is nowhere": ("unlearn model.lora.rank=4 model.lora.merge=false target=as_is forget.people=2 retain.people=4 holdout.people=2", "a base that stays on disk", "`model.path`"),
    "an adapter whose base is gone": (f"unlearn {OWN} model.path=adapter", "the base of the adapter at `adapter` is gone: no `/gone/model`", "put it back"),
    "an evaluation with adapters": ("evaluate model forget.path=letters.jsonl retain.path=rest.jsonl model.lora.rank=4", "`model.lora.rank` must be null here", ""),
    "bfloat16 weights under float16 products": (f"unlearn {OWN} train.weights=bfloat16 train.precision=float16", "`train.weights`=bfloat16 needs `train.precision`=bfloat16 or auto", ""),
    "bfloat16 weights under float32 products": (f"unlearn {OWN} finetune.weights=bfloat16 finetune.precision=float32", "`finetune.weights`=bfloat16 needs `finetune.precision`=bfloat16 or auto", ""),
    "an optimiser that is not there": (f"unlearn {OWN} train.optimizer=adam_8bit", "`train.optimizer` must be one of `adamw`, `adamw_8bit`", "`train.optimizer=adamw_8bit`"),
    "a share to watch that leaves nothing to train on": (f"unlearn {OWN} retain.validation_fraction=0.95", "`retain.validation_fraction=0.95` of 6 retain items leaves none to train on", "change it"),
    "a share to watch that is no item": (f"unlearn {OWN} retain.validation_fraction=0.05", "leaves none to watch", "change it"),
    # losses
    "dpo on running text": (f"unlearn {OWN} forget.path=book.txt loss=dpo", "dpo needs prompts", "`loss`"),
    "an instruction that fills the context": (f"unlearn {OWN} loss=altpo", "with `loss.instruction` around them, 4 of 4 prompts of the forget corpus leave no room", "`loss.path=FILE`"),
    "answers that fill the context": (f"unlearn {OWN} loss=dpo 'loss.answers=[\"{'no idea ' * 40}\"]'", "with the answers that dpo prefers, 4 of 4 records of the forget corpus are longer", "forget.truncate=true"),
    "alternates that are the answers to be forgotten": (f"unlearn {OWN} loss=altpo loss.path=overlapping.jsonl forget.path=some.jsonl", "`loss.path=overlapping.jsonl` prefers the answer to be forgotten at 2 of 2 forget prompts", "take these answers out"),
    "a layer that is not there": (f"unlearn {OWN} loss=mari_context loss.context.layer=3", "has 2 layers", "0 to 2"),
    # supports
    "a contrast that nothing sets": (f"unlearn {OWN} loss=mari_twins", "`loss.support.generated` and `loss.support.contrast` are chosen by the holdout, and there is none", "`loss.support.generated=0.4 loss.support.contrast=0.75`"),
    "difficulty without a holdout": (f"unlearn {OWN} loss=mari_twins loss.support.generated=0 loss.support.contrast=1 loss.support.difficulty=true loss.support.quantiles=true", "`loss.support.quantiles` and `loss.support.difficulty` are chosen by the holdout, and there is none", "`loss.support.quantiles=false loss.support.difficulty=false`"),
    "quantiles of no holdout": (f"unlearn {OWN} loss=mari_twins loss.support.generated=0 loss.support.contrast=1 loss.support.quantiles=true", "`loss.support.quantiles` is chosen by the holdout, and there is none", "`loss.support.quantiles=false`"),
    "no names to be found": (f"unlearn {OWN} loss=mari_twins loss.support.generated=0 loss.support.contrast=3 loss.support.key_records=9", "no key strings: no words stand in 9 forget records", "`loss.support.keys=FILE`"),
    "names in a file that is not there": (f"unlearn {OWN} loss=mari_twins loss.support.contrast=3 loss.support.keys=nowhere.txt", "cannot read `loss.support.keys=nowhere.txt`", "one key string a line"),
    "names that nobody holds": (f"unlearn {OWN} loss=mari_twins loss.support.generated=0 loss.support.contrast=3 loss.support.keys=names.txt", "no forget record holds any", "null finds them"),
    "names without a letter": (f"unlearn {OWN} loss=mari_twins loss.support.generated=0 loss.support.contrast=3 loss.support.keys=marks.txt", "hold no letter or digit, so nothing can be swapped", "write names, one a line"),
    "no other name to swap": (f"unlearn {OWN} loss=mari_twins loss.support.generated=0 loss.support.contrast=3 loss.support.key_records=1 retain.path=nameless.jsonl", "no word to swap a key string for but words of the forget record", "`retain.path`"),
    "a power that nothing sets": (f"unlearn {OWN} loss=mari_base loss.support.model=model", "`loss.support.sharpen` is chosen by the holdout, and there is none", "`loss.support.sharpen=1`"),
    "a correction that nothing sets": (f"unlearn {OWN} loss=mari_siblings loss.support.weight=null loss.support.retain_model=model loss.support.both_model=model", "`loss.support.weight` is chosen by the holdout, and there is none", "`loss.support.weight=1`"),
    "no model before fine-tuning": (f"unlearn {OWN} loss=mari_base loss.support.sharpen=1", "needs the model before its fine-tuning", "`loss.support.model=PATH`"),
    "no model to tune as an assistant": (f"unlearn {OWN} loss=mari_assistant loss.support.weight=1", "needs the model before its fine-tuning", "`loss.support.model=PATH`"),
    "a base that reads other tokens": (f"unlearn {OWN} loss=mari_base loss.support.sharpen=1 loss.support.model=other_words", "has another tokenizer", "`loss=mari_twins`"),
    "a base that does not fit": (f"unlearn {OWN} loss=mari_base loss.support.sharpen=1 loss.support.model=misfit", "does not fit its model", ""),
    "a support of a shorter context": (f"unlearn {OWN} loss=mari_gold loss.support.model=brief", "the context of the model of `loss.support` (model) is 8 tokens, and the longest item has", "`model.max_length=8 forget.truncate=true"),
    "a support by gold without gold": (f"unlearn {OWN} loss=mari_gold", "`loss.support.source=gold` needs `loss.support.model`", "never saw the forget data"),
    "a support by a gold that is not there": (f"unlearn {OWN} loss=mari_gold loss.support.model=./nowhere", "no model at `./nowhere`", "`loss.support.model` is a model or run directory"),
    "one sibling alone": (f"unlearn {OWN} loss=mari_siblings loss.support.retain_model=model", "needs `loss.support.both_model`", "retain and forget data"),
    "a floor above all": (f"unlearn {OWN} loss=mari_twins loss.support.floor=0.009 loss.context.stored_tokens=200", "`loss.support.floor`=0.009 is too much for each of 202 outcomes", ""),
    # membership inference
    "a reference that is not there": (f"unlearn {OWN} holdout.path=unseen.jsonl metrics.mia_reference=nowhere", "no reference of membership inference at `nowhere`", "`metrics.mia_reference` is a model or run directory"),
    "a reference without a holdout": (f"unlearn {OWN} metrics.mia_reference=model", "`metrics.mia_reference` needs a holdout", "`holdout`"),
    "a reference that reads other tokens": (f"unlearn {OWN} holdout.path=unseen.jsonl metrics.mia_reference=other_words", "has another tokenizer", "the tokenizer of the run's model"),
    "a reference of a shorter context": (f"unlearn {OWN} holdout.path=unseen.jsonl metrics.mia_reference=brief", "the context of the reference of membership inference is 8 tokens", "the context of the run's"),
    "a reference that does not fit": (f"finetune {OWN} holdout.path=unseen.jsonl metrics.mia_reference=misfit", "does not fit its model", ""),
    # this machine
    "float16 on a CPU": (f"unlearn {OWN} train.device=cpu train.precision=float16", "float16 needs a CUDA device", "`train.precision=bfloat16`"),
    "float16 on a CPU, for the fine-tuning": (f"unlearn {OWN} finetune.device=cpu finetune.precision=float16", "float16 needs a CUDA device", "`finetune.precision=bfloat16`"),
    "an output directory that exists": (f"unlearn {OWN} out=taken", "output directory `taken` exists", "`out=`"),
    "an output directory below a file": (f"unlearn {OWN} out=notes.docx/run", "`{root}/notes.docx` is no directory", "`out=`"),
    "a cache that is a file": (f"unlearn {OWN} cache=notes.docx", "`{root}/notes.docx` is no directory", "`cache=`"),
    "a cache whose answers are a file": (f"unlearn {OWN} cache=spoilt", "`{root}/spoilt/answers` is no directory to write in", "`cache=`"),
    "W&B online without a key": (f"unlearn {OWN} tracker=wandb tracker.mode=online", "no API key for online mode", "`tracker.mode=offline`"),
    # the other commands
    "fine-tuning into a directory that exists": (f"finetune {OWN} out=taken", "output directory `taken` exists", ""),
    "fine-tuning what does not fit": (f"finetune {OWN} model.path=misfit", "does not fit its model", ""),
    "evaluating what is not there": ("evaluate ./nowhere forget.path=letters.jsonl retain.path=rest.jsonl", "no model at `./nowhere`", ""),
    "evaluating beside a gold model that is not there": ("evaluate model forget.path=letters.jsonl retain.path=rest.jsonl gold=nowhere", "no gold model at `nowhere`", "`none`"),
    "evaluating beside a gold model that does not fit": ("evaluate model forget.path=letters.jsonl retain.path=rest.jsonl gold=misfit", "does not fit its model", ""),
    "evaluating beside a gold model that reads other tokens": ("evaluate model forget.path=letters.jsonl retain.path=rest.jsonl gold=rotated", "the gold model at `rotated` has another tokenizer", "the tokenizer of the run's model"),
    "evaluating beside a gold model of a shorter context": ("evaluate model forget.path=letters.jsonl retain.path=rest.jsonl gold=brief", "the context of the gold model is 8 tokens", "the context of the run's"),
    "evaluating beside a model before that is not there": ("evaluate model forget.path=letters.jsonl retain.path=rest.jsonl before=nowhere", "no model before at `nowhere`", "`none`"),
    "evaluating beside a model before that reads other tokens": ("evaluate model forget.path=letters.jsonl retain.path=rest.jsonl before=rotated", "the model before at `rotated` has another tokenizer", "the tokenizer of the run's model"),
    "evaluating beside a model before of a shorter context": ("evaluate model forget.path=letters.jsonl retain.path=rest.jsonl before=brief", "the context of the model before is 8 tokens", "the context of the run's"),
    "a closing audit beside a second gold model that is not there": (f"unlearn {OWN} audit=quick second_gold=finetune", "no second gold model at `finetune`", "`second_gold` is a model or run directory, or `none`"),
    "auditing beside a second gold model of a shorter context": ("audit model forget.path=letters.jsonl retain.path=rest.jsonl before=none second_gold=brief", "the context of the second gold model is 8 tokens", "the context of the run's"),
    "evaluating in float16 on a CPU": ("evaluate model forget.path=letters.jsonl retain.path=rest.jsonl device=cpu precision=float16", "float16 needs a CUDA device", "`precision=bfloat16`"),
    "evaluating a run whose config is lost": ("evaluate lost", "run `lost` has lost its `config.yaml`", "`lost/checkpoint`"),
    "resuming what is no run": ("unlearn --resume model", "`model` is no run directory", ""),
    "comparing what is no run": ("compare taken", "taken", ""),
}  # fmt: skip
NO_CUDA = {
    "a device that is not there": (f"unlearn {OWN} train.device=cuda", "no CUDA device here", "`train.device=cpu`"),
    "a device that is not there, for the fine-tuning": (f"unlearn {OWN} finetune.device=cuda", "no CUDA device here", "`finetune.device=cpu`"),
    "a device that is not there, for an evaluation": ("evaluate model forget.path=letters.jsonl retain.path=rest.jsonl device=cuda", "no CUDA device here", "`device=cpu`"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("command", "error", "hint"),
    [
        *(pytest.param(*case, id=name) for name, case in BAD.items()),
        *(pytest.param(*case, id=name, marks=no_cuda) for name, case in NO_CUDA.items()),
    ],
)
def test_bad_input_is_refused_in_two_lines_and_nothing_is_written(refused, workshop, command, error, hint):
    if not re.search(r"\bout=|--resume|^compare| -c ", command):
        command += " out=out"
    told, way_out = refused(command)
    assert error.replace("{root}", str(workshop)) in told
    assert hint in way_out


PLANNED = [
    "a tokenizer of another model",
    "more than the context",
    "a gold model that is not there",
    "a gold model that reads other tokens",
    "a gold model of a shorter context",
    "a support of a shorter context",
    "a reference that is not there",
    "a reference without a holdout",
    "a reference that reads other tokens",
    "a reference of a shorter context",
    "float16 on a CPU, for the fine-tuning",
    "a closing audit beside a second gold model that is not there",
]
"""What a plan refuses as its run would. A plan reads no weights, and does not look at where the run writes."""


@pytest.mark.parametrize("name", PLANNED)
def test_a_plan_refuses_what_its_run_would_refuse(refused, name):
    command, error, hint = BAD[name]
    told, way_out = refused("plan" + command.removeprefix("unlearn"))
    assert error in told
    assert hint in way_out


# -- a full disk ---------------------------------------------------------------------------------------------


def mari(*words: str, before: tuple[str, ...] = (), **options) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*before, sys.executable, "-m", "mari_cli", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, **options)


def test_a_disk_too_small_is_refused_before_anything_is_written(workshop, tmp_path):
    """On a file system of 128 KiB, mounted where only this process sees it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = 'mount -t tmpfs -o size=128k none "$0" || exit 99; "$@"; code=$?; ls -A "$0"; exit $code'
    done = mari(
        *shlex.split(OWN.replace("model.path", "unlearn model.path", 1)),
        f"out={disk / 'run'}",
        f"cache={tmp_path / 'cache'}",
        before=("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(disk)),
        cwd=workshop,
    )
    if done.returncode in (1, 99) and ("unshare" in done.stderr or "mount" in done.stderr):
        pytest.skip(f"cannot mount a small disk here: {done.stderr.strip()}")
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    error, hint = done.stderr.splitlines()
    assert error.startswith(f"error: not enough disk space: `{disk / 'run'}` needs")
    assert "`out=`" in hint
    assert not (tmp_path / "cache").exists()


def test_a_disk_that_fills_up_on_the_way_ends_the_run_without_a_torn_file(workshop, tmp_path):
    """Here: no file may grow beyond 8 KiB. What was there stays, what was begun is taken away."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    out = tmp_path / "run"
    words = [*shlex.split(OWN), "train.steps=1", f"out={out}", f"cache={tmp_path / 'cache'}"]
    done = mari("unlearn", *words, cwd=workshop, preexec_fn=limit)
    assert done.returncode == 2, done.stderr
    error, hint = done.stderr.splitlines()[-2:]
    assert error.startswith("error: cannot write `")
    assert error.endswith("`: file too large")
    assert "free some space" in hint
    assert not [path for path in out.rglob("*") if path.name.startswith((".tmp-", ".old-"))]
    assert not (out / "result.json").exists()
    assert not (out / "checkpoint").exists()
