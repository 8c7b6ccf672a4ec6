"""What no key takes: looked for in every key that there is, so a new key is looked at too."""

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin

import pytest
from omegaconf import OmegaConf, open_dict

from mari_cli import config, launch
from mari_cli.config import SCHEMAS
from mari_cli.errors import UserError
from mari_cli.launch import Experiment

SENSELESS = {
    float: [math.inf, -math.inf, math.nan, 1e38, 1e-38],
    int: [2**63, -(2**63)],
}
BASES = {
    "unlearn": ["forget=text", "forget.path=x.txt", "retain=jsonl", "model.lora.rank=4", "suite=tofu"],
    "finetune": [],
    "evaluate": ["model.path=x", "suite=own", "suite.code=x.py", "+suite.settings.a=1"],
}


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    """Of each command a configuration, and of `unlearn` one for each loss."""
    found = {task: launch.compose(Experiment(task, words)) for task, words in BASES.items()}
    losses = {
        loss: launch.compose(Experiment("unlearn", [f"loss={loss}"])) for loss in ("npo", "dpo", "kl_ga")
    }
    return found | losses


def numeric(schema: type, prefix: str = "") -> Iterator[tuple[str, type, bool]]:
    """Every key that holds numbers, of what kind, and whether it holds a list of them."""
    for field in fields(schema):
        kinds = {field.type, *get_args(field.type)}
        inner = {kind for outer in kinds if get_origin(outer) is list for kind in get_args(outer)}
        if is_dataclass(field.type):
            yield from numeric(field.type, f"{prefix}{field.name}.")
        for kind in (int, float):
            if kind in kinds | inner:
                yield f"{prefix}{field.name}", kind, kind in inner


def keys_of(cfg: Any) -> Iterator[tuple[str, type, bool]]:
    yield from (found for found in numeric(OmegaConf.get_type(cfg)) if "." not in found[0])
    for section in cfg:
        if OmegaConf.is_dict(cfg._get_node(section)) and cfg[section] is not None:  # `audit` may be null
            for key, kind, many in numeric(OmegaConf.get_type(cfg[section])):
                yield f"{section}.{key}", kind, many


def changed(cfg: Any, key: str, value: Any) -> Any:
    cfg = cfg.copy()
    with open_dict(cfg):
        OmegaConf.update(cfg, key, value, force_add=True)
    return cfg


def test_no_number_is_infinite_or_too_large_to_compute_with(composed):
    seen = set()
    for cfg in composed.values():
        for key, kind, many in keys_of(cfg):
            if key in seen:
                continue
            seen.add(key)
            for value in SENSELESS[kind]:
                wrong = changed(cfg, key, [value] if many else value)
                with pytest.raises(UserError) as refused:
                    launch.parse(wrong)
                assert key.rpartition(".")[2] in str(refused.value), (key, value, refused.value)
    assert {"seed", "train.lr", "loss.beta", "loss.context.temperature", "metrics.seeds", "finetune.epochs",
            "model.lora.alpha", "train.stop.retain_drop", "forget.fraction"} <= seen  # fmt: skip


@pytest.mark.parametrize("value", [math.inf, [1, {"b": math.nan}], -1e39, 10**400, "a\0b", "\udcff"])
@pytest.mark.parametrize("section", ["model.architecture", "suite.settings"])
def test_nor_in_a_section_that_takes_any_keys(section, value, composed):
    task = "unlearn" if section == "model.architecture" else "evaluate"
    cfg = launch.compose(Experiment("finetune")) if task == "unlearn" else composed[task]
    with pytest.raises(UserError, match=rf"`{section}\.x"):
        launch.parse(changed(cfg, f"{section}.x", value))


def test_every_seed_is_one_that_all_generators_take(composed):
    seeds = {f"{name}.{f.name}" for name, s in SCHEMAS.items() for f in fields(s) if "seed" in f.name}
    found = set()
    for cfg in composed.values():
        for key, _, many in keys_of(cfg):
            if "seed" in key:
                found.add(key.rpartition(".")[2])
                with pytest.raises(UserError, match="must be from 0 to"):
                    launch.parse(changed(cfg, key, [-1] if many else -1))
    assert found == {key.rpartition(".")[2] for key in seeds}
    largest = changed(composed["finetune"], "seed", 2**63 - 1)
    assert launch.parse(largest).seed == 2**63 - 1


def test_no_text_is_empty_but_in_a_section_that_takes_any_keys(composed):
    cfg = composed["unlearn"]
    for key in ("out", "cache", "gold", "model.name", "forget.path", "forget.split", "loss.name"):
        for value in ("", " ", "\n"):
            with pytest.raises(UserError, match=f"`{key}` is empty|label"):
                launch.parse(changed(cfg, key, value))
    with pytest.raises(UserError, match=r"`loss\.answers\[1\]` is empty"):
        launch.parse(changed(composed["dpo"], "loss.answers", ["No.", ""]))
    launch.parse(changed(composed["evaluate"], "suite.settings.x", ""))


@pytest.mark.parametrize("label", ["a/b", "a\nb", "../x", "\x1b[2J"])
def test_a_label_is_a_word(label, composed):
    for key in ("loss.name", "model.name", "forget.name"):
        with pytest.raises(UserError, match="is a label"):
            launch.parse(changed(composed["unlearn"], key, label))


@pytest.mark.parametrize("word", ["_target_", "_partial_", "_args_", "_convert_"])
def test_nothing_is_built_from_a_configuration(word, composed):
    for where in (word, f"x.{word}", f"x.y.{word}"):
        with pytest.raises(UserError, match="a word of Hydra's"):
            launch.parse(changed(composed["evaluate"], f"suite.settings.{where}", "os.system"))


def test_a_vocabulary_is_one_that_a_tokenizer_can_hold(composed):
    with pytest.raises(UserError, match="must be at most 1048576"):
        launch.parse(changed(composed["finetune"], "model.tokenizer_vocab_size", 2**62))


@pytest.mark.parametrize("text", ["0GiB", "1e400GiB", "9" * 400 + "GiB", "-1GiB", "GiB", "1", "infGiB", ""])
def test_a_size_is_one_that_a_machine_can_have(text):
    with pytest.raises(ValueError, match="must be a size like 40GiB"):
        config.bytes_of(text, "--memory")
