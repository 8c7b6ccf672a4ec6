"""The support of a run: made before step 1 from whole models, kept, and found again when a run was killed."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TINY

from mari_cli import launch
from mari_cli.data.records import Fact, Record
from mari_cli.data.tokenize import Item
from mari_cli.errors import UserError
from mari_cli.lm_head import head_of
from mari_cli.losses.support import PLAIN_GENERATED, SupportConfig, SupportSource, unread_by
from mari_cli.metrics.likelihood import answer_nll
from mari_cli.models.backbone import hidden_states
from mari_cli.models.context import Targets
from mari_cli.models.device import choose_compute
from mari_cli.models.reference import ItemRows
from mari_cli.options import RunOptions
from mari_cli.suites.scores import ItemScore, score
from mari_cli.suites.standard import Corpus
from mari_cli.supports import difficulty
from mari_cli.supports.calibrate import calibrated
from mari_cli.supports.difficulty import Bigrams
from mari_cli.supports.sparse import choices
from mari_cli.supports.twins import Way
from mari_cli.tasks import supporting
from mari_cli.tasks.plan import plan
from mari_cli.tasks.preflight import check_run, load_for
from mari_cli.tasks.recitation import describe_recitation
from mari_cli.tasks.setting import read_setting, tokenize_corpora
from mari_cli.tasks.sources import asking as asking_of_sources
from mari_cli.tasks.sources.registry import SOURCES
from mari_cli.tasks.sources.twins import ways_of
from mari_cli.tasks.unlearn import prepare_target


def asking(cache, *overrides: str) -> SimpleNamespace:
    """All that `unlearn` has before it asks for the support."""
    arguments = [*TINY, "loss.support.twins=2", f"out={cache / 'none'}", f"cache={cache}", *overrides]
    config = launch.configured(launch.Experiment("unlearn", arguments))
    flight, lm = check_run(config, RunOptions(["mari"]))
    config, prepared, _ = supporting.prepare_support(config, flight.setting, flight.corpora, lm.style)
    flight = replace(flight, config=config)
    target = prepare_target(flight)
    made = partial(supporting.support, config, flight.setting, flight.corpora, prepared, target, flight.load)
    return SimpleNamespace(config=config, corpora=flight.corpora, target=target, load=flight.load, made=made)


def q_of(targets: Targets, vocabulary: int) -> torch.Tensor:
    return torch.zeros(len(targets.q_MK), vocabulary).scatter(1, targets.ids_MK.long(), targets.q_MK)


def predicted(lm, items) -> torch.Tensor:
    with torch.no_grad():
        h_ND, _ = hidden_states(lm.model, lm.compute, items)
        return head_of(lm.model)(h_ND).softmax(-1)


def test_gold_is_what_the_given_model_predicts(cache):
    here = asking(cache, "loss=mari_context", "loss.support.source=neighbours")
    path = here.target.path
    asked = asking(cache, "loss=mari_gold", f"loss.support.model={path}", "loss.context.stored_tokens=9999",
                   "loss.support.floor=1e-9")  # fmt: skip
    targets, notes = asked.made()
    lm = asked.load(asked.target)
    expected = predicted(lm, asked.corpora["forget"].items)
    torch.testing.assert_close(q_of(targets, expected.shape[1]), expected, rtol=1e-3, atol=1e-6)
    assert any("q recites" in note for note in notes)


@pytest.mark.parametrize("source", ["loss=mari_gold", "loss=mari_base"])
def test_no_token_is_supported_beyond_those_of_the_target(source, cache, tmp_path):
    """The head of the given model is padded further than the target's."""
    path = asking(cache, "loss=mari_context").target.path
    wide = shutil.copytree(Path(path) / "checkpoint", tmp_path / "wide")
    tensors = load_file(wide / "model.safetensors")
    name = "transformer.wte.weight"
    rows = len(tensors[name])
    tensors[name] = torch.cat([tensors[name], tensors[name][:8]])  # as probable as other tokens
    save_file(tensors, wide / "model.safetensors", {"format": "pt"})
    config = json.loads((wide / "config.json").read_text())
    (wide / "config.json").write_text(json.dumps(config | {"vocab_size": rows + 8}))
    asked = asking(cache, source, f"loss.support.model={wide}", "loss.context.stored_tokens=9999")
    targets, _ = asked.made()
    assert targets.ids_MK.max() < rows
    torch.testing.assert_close(targets.q_MK.sum(1), torch.ones(len(targets.q_MK)), rtol=0, atol=1e-5)


def test_siblings_who_agree_leave_what_the_target_predicts(cache):
    path = asking(cache, "loss=mari_context").target.path
    asked = asking(cache, "loss=mari_siblings", f"loss.support.retain_model={path}",
                   f"loss.support.both_model={path}", "loss.context.stored_tokens=9999")  # fmt: skip
    targets, _ = asked.made()
    expected = predicted(asked.load(asked.target), asked.corpora["forget"].items)
    torch.testing.assert_close(q_of(targets, expected.shape[1]), expected, rtol=1e-2, atol=2e-6)


def mean_nll(targets: Targets, items) -> float:
    nll = (-targets.q_MK[:, 0].log()).split([item.num_targets for item in items])
    return sum(answer_nll(of_item) for of_item in nll) / len(items)


def score_holdout(asked):
    return score(
        asked.load(asked.target), asked.corpora["holdout"].items, batch_size=32, min_k=0.4,
        track=lambda items, *_: iter(items), description="",
    )  # fmt: skip


def holdouts(asked) -> float:
    column = score_holdout(asked).column("answer_nll")
    return sum(column) / len(column)


@pytest.mark.parametrize("given", ["generated=null", "generated=0"])
def test_twins_are_set_so_that_the_forget_answers_are_as_unlikely_as_the_holdout(given, cache):
    asked = asking(cache, "loss=mari_twins", f"loss.support.{given}")
    targets, notes = asked.made()
    assert not any("as near as" in note for note in notes)
    assert mean_nll(targets, asked.corpora["forget"].items) == pytest.approx(holdouts(asked), abs=4e-3)


def test_nobody_is_warned_that_the_contrast_that_was_typed_misses_the_loss_of_the_holdout(cache):
    _, notes = asking(cache, "loss=mari_twins", "loss.support.contrast=0.5").made()
    (note,) = [note for note in notes if "of the twins generated" in note]
    assert "as near as it comes" in note
    assert not note.startswith("warning")


@pytest.mark.parametrize("source", ["loss=mari_assistant", "loss=mari_twins"])
def test_difficulty_changes_the_weight_and_the_quantiles_that_the_holdout_sets(source, tmp_path, monkeypatch):
    monkeypatch.setattr(difficulty, "FEWEST", 3)
    given = ["loss.support.quantiles=true"] if source == "loss=mari_twins" else []
    given += ["loss.support.generated=0", "loss.support.contrast=1"] if given else []
    plain, _ = asking(tmp_path, source, *given).made()
    corrected, notes = asking(tmp_path, source, *given, "loss.support.difficulty=true").made()
    assert any("for each nat that the bigrams" in note for note in notes)
    assert not torch.equal(plain.q_MK, corrected.q_MK)


def test_with_difficulty_an_answer_is_compared_with_equally_hard_ones_of_the_holdout(cache, monkeypatch):
    monkeypatch.setattr(difficulty, "FEWEST", 3)
    asked = asking(cache, "loss=mari_twins", "loss.support.difficulty=true", "loss.support.generated=0")
    targets, notes = asked.made()
    assert any("for each nat that the bigrams of the retain data give it" in note for note in notes)
    calibrated = next(note for note in notes if "generated" in note)
    assert "forget answers, less what is harder in them, that it gets wrong" in calibrated
    assert "as near as" not in calibrated
    corpora = asked.corpora
    lm = asked.load(asked.target)
    scored = score_holdout(asked)
    nll, right, tokens = (
        torch.tensor(scored.column(name), dtype=torch.float64)
        for name in ("answer_nll", "tokens_right", "tokens")
    )
    bigrams = Bigrams(corpora["retain"].items, len(head_of(lm.model).weight_VD))
    x, x_holdout = (bigrams.difficulties(corpora[role].items) for role in ("forget", "holdout"))
    wrong = right / tokens < 1
    from_mean = x_holdout[wrong] - x_holdout[wrong].mean()
    slope = (from_mean * nll[wrong]).sum() / from_mean.square().sum()
    lengths = [item.num_targets for item in corpora["forget"].items]
    own = torch.stack([-of.double().log().mean() for of in targets.q_MK[:, 0].split(lengths)])
    q_wrong = choices(targets)[0] < 1
    corrected = (own - slope * (x - x_holdout[wrong].mean()))[q_wrong].mean()
    assert corrected.item() == pytest.approx(nll[wrong].mean().item(), abs=4e-3)


def test_q_of_twins_is_raised_to_the_power_that_is_given(cache):
    given = ["loss=mari_twins", "loss.support.generated=0", "loss.support.contrast=0",
             "loss.context.stored_tokens=9999", "loss.support.floor=1e-30"]  # fmt: skip
    once, twice = (
        q_of(asking(cache, *given, f"loss.support.sharpen={power}").made()[0], 4000) for power in (1, 2)
    )
    expected = once.double().square()
    expected /= expected.sum(1, keepdim=True)
    torch.testing.assert_close(twice.double(), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("source", ["loss=mari_twins", "loss=mari_base"])
def test_with_quantiles_the_mistakes_of_q_cost_what_those_of_the_holdout_cost_one_by_one(source, cache):
    asked = asking(cache, source, "loss.support.quantiles=true")
    targets, notes = asked.made()
    assert any("moved to the losses that such answers of the holdout have" in note for note in notes)
    scored = score_holdout(asked)
    columns = [scored.column(name) for name in ("answer_nll", "tokens_right", "tokens")]
    theirs = sorted(nll for nll, right, tokens in zip(*columns, strict=True) if right < tokens)
    right, _ = choices(targets)
    own = sorted(
        answer_nll(of_item)
        for of_item, share in zip(
            (-targets.q_MK[:, 0].log()).split([item.num_targets for item in asked.corpora["forget"].items]),
            right.tolist(),
            strict=True,
        )
        if share < 1
    )
    assert own
    places = (torch.arange(len(own)).double() + 0.5) / len(own)
    wanted = torch.quantile(torch.tensor(theirs, dtype=torch.float64), places).tolist()
    assert own == pytest.approx(wanted, abs=4e-3)
    assert q_of_sum(targets) <= 1 + 1e-6


def test_the_weight_of_a_correction_is_set_by_the_holdout_where_none_is_given(tmp_path):
    _, notes = asking(tmp_path, "loss=mari_assistant").made()
    told = [note for note in notes if note.startswith("support: a correction of weight")]
    assert len(told) == 1
    assert "the model before has on the holdout" in told[0]
    _, notes = asking(tmp_path, "loss=mari_assistant", "loss.support.weight=0.5").made()
    assert not any("weight" in note for note in notes)


def q_of_sum(targets: Targets) -> float:
    return targets.q_MK.sum(1).max().item()


COUNTED = {
    "loss=mari_twins": ("loss.support.twins=3", "loss.support.keys={file}",
                        "loss.support.generated=1",
                        "loss.context.stored_tokens=5"),
    "loss=mari_base": ("loss.support.share=1",),
    "loss=mari_assistant": ("loss.support.weight=0.5",),
    "loss=who_is_harry_potter": ("loss.support.weight=0.5", "loss.support.share=1"),
}  # fmt: skip


@pytest.mark.parametrize("source", COUNTED)
def test_what_was_made_is_found_again_and_each_setting_makes_its_own(source, tmp_path, monkeypatch):
    made: list[str] = []
    kept = asking_of_sources.kept
    names = tmp_path / "names.txt"
    names.write_text("the\n")

    def noting(fill, *arguments, **options):
        return kept(lambda write: (made.append("asked"), fill(write)), *arguments, **options)

    monkeypatch.setattr(asking_of_sources, "kept", noting)
    first, _ = asking(tmp_path, source).made()
    again, _ = asking(tmp_path, source).made()
    assert made == ["asked"]
    assert torch.equal(first.q_MK, again.q_MK)
    asking(tmp_path, source, "train.chunk=3", "metrics.batch_size=32").made()
    assert made == ["asked"]
    for number, changed in enumerate(COUNTED[source], start=2):
        asking(tmp_path, source, changed.format(file=names)).made()
        assert len(made) == number, changed


@pytest.mark.parametrize("source", ["loss=mari_twins", "loss=mari_base"])
def test_the_plan_says_what_is_read_trained_and_kept(source, tmp_path):
    asked = asking(tmp_path, source)
    found = plan(asked.config, device="cpu")
    tokens = {role: sum(len(i.input_ids) for i in of.items) for role, of in asked.corpora.items()}
    if source == "loss=mari_twins":
        # the forget data once; two twins after the true answer; two after their own, which is drawn first
        assert found["support"]["forward_tokens"] == 7 * tokens["forget"] + tokens["holdout"]
        assert found["support"]["training_tokens"] == 0
    else:
        assert found["support"]["forward_tokens"] == tokens["forget"] + 2 * tokens["holdout"]
        assert found["support"]["training_tokens"] == tokens["retain"]  # one epoch, a third of two
    before = set(tmp_path.rglob("*.bin"))
    asked.made()
    written = sum(file.stat().st_size for file in {*tmp_path.rglob("*.bin")} - before)
    trained = 0 if source == "loss=mari_twins" else 4 * found["model"]["parameters"]
    assert found["disk"]["support"] == written + trained


def asked_of(*right: bool, known: bool = True) -> tuple[Targets, Corpus]:
    """Items of one target each: is it what q would say?"""
    q = torch.tensor([[0.6, 0.2] if is_right else [0.2, 0.6] for is_right in right])
    rows = ItemRows(dict.fromkeys(range(len(right)), 1))
    items = [Item((1, 2), 1, i) for i in range(len(right))]
    fact = Fact.unique if known else None
    records = [Record(prompt="?", text=str(i), fact=fact) for i in range(len(right))]
    return Targets(rows, torch.device("cpu"), torch.zeros(len(right), 2), q), Corpus(records, items)


def scores(*right: bool) -> list[ItemScore]:
    return [
        ItemScore(tokens=1, tokens_right=int(is_right), answer_nll=0.0, exact_match=float(is_right))
        for is_right in right
    ]


@pytest.mark.parametrize(("recited", "warned"), [(20, True), (2, False), (0, False)])
@pytest.mark.parametrize("known", [True, False])
def test_a_q_that_recites_more_than_the_holdout_is_warned_of_with_the_number(recited, warned, known):
    targets, corpus = asked_of(*[True] * recited, *[False] * (40 - recited), known=known)
    of_holdout = scores(True, True, *[False] * 38)
    notes = describe_recitation(targets, {"forget": corpus, "holdout": corpus}, of_holdout)
    assert len(notes) == (1 if known else 2)
    assert all(note.startswith("warning: ") is warned for note in notes)
    assert f"{recited / 40:.3f} of the {'unique facts' if known else 'answers'}" in notes[0]
    assert "0.050" in notes[0]


@pytest.mark.parametrize(
    ("least", "most", "sure"), [(6.0, 16.0, "less"), (0.0, 4.0, "more"), (0.0, 16.0, None)]
)
def test_a_calibration_that_ends_at_the_end_of_its_range_is_warned_of_with_what_to_do(least, most, sure):
    found = calibrated(lambda power: power, 5.0, least=least, most=most)
    note = asking_of_sources.of_calibration(found, f"power {found.value:.4g}", "tune it longer")
    assert note.startswith("warning: support: power") is (sure is not None)
    if sure:
        assert note.endswith(f"the holdout, 5: q is {sure} sure than wanted; tune it longer")


def test_without_a_holdout_the_number_is_said():
    targets, corpus = asked_of(True, False)
    (note,) = describe_recitation(targets, {"forget": corpus}, [])
    assert "0.500" in note
    assert "no holdout" in note


def letters(*names: str, times: int = 3) -> str:
    rows = [
        {"prompt": f"How was {name} on day {day}?", "completion": f"It was {name} who fell ill."}
        for name in names
        for day in range(times)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


KEYS = "key strings in 6 of 6 forget items"


@pytest.mark.parametrize(
    ("forget", "holdout", "source", "generated", "says"),
    [
        (letters("Orla", "Udo"), letters("Pia", "Jost"), "twins", None, [KEYS]),
        (letters("Orla", "Udo"), None, "twins", PLAIN_GENERATED, [KEYS, "no holdout to choose them by"]),
        (letters("Orla", times=1), letters("Pia"), "neighbours", None, ["no key strings"]),
    ],
)
def test_without_a_loss_chosen_the_support_is_what_the_data_allows(
    tmp_path, forget, holdout, source, generated, says
):
    files = {"forget": forget, "retain": letters("Ada", "Bo", "Cleo"), "holdout": holdout}
    for role, text in files.items():
        if text:
            (tmp_path / f"{role}.jsonl").write_text(text)
    given = [f"{role}.path={tmp_path / role}.jsonl" for role, text in files.items() if text]
    corpora_of = ["forget=jsonl", *given]
    config = launch.configured(launch.Experiment("unlearn", ["model=gpt2_tiny", *corpora_of]))
    setting = read_setting(config, choose_compute(config.train.device, config.train.precision))
    lm = load_for(config, setting, config.model)
    corpora = tokenize_corpora(config, setting, lm)
    chosen, prepared, notes = supporting.prepare_support(config, setting, corpora, lm.style)
    assert (prepared and prepared.config) == (chosen.loss.support if source == "twins" else None)
    assert (chosen.loss.support.source, chosen.loss.support.generated) == (source, generated)
    assert [words in note for words, note in zip(says, notes, strict=True)] == [True] * len(says)


def test_running_text_has_no_answers_so_that_its_twins_are_plain_unless_asked_otherwise():
    text, pair = Item((1, 2, 3), 1, 0), Item((1, 2, 3), 2, 0)
    both = [Way.plain, Way.generated]
    for share, items, expected in [
        (None, [text, text], [Way.plain]),
        (None, [text, pair], both),
        (0.5, [text], both),
        (1.0, [text], [Way.generated]),
        (0.0, [pair], [Way.plain]),
    ]:
        assert ways_of(SupportConfig(generated=share), items) == expected


def test_key_strings_that_the_user_gives_and_nobody_holds_are_refused_under_auto_too(tmp_path):
    (tmp_path / "names.txt").write_text("Nobody Atall\n")
    with pytest.raises(UserError, match="no forget record holds any"):
        asking(tmp_path, f"loss.support.keys={tmp_path / 'names.txt'}", "loss=mari_auto")


@pytest.mark.parametrize(
    ("source", "given", "read"),
    [
        ("twins", {"model": "nowhere"}, False),
        ("twins", {"keys": "names.txt", "sharpen": 2.0, "quantiles": True}, True),
        ("auto", {"contrast": 0.5}, True),
        ("twins", {"difficulty": True}, True),
        ("auto", {"difficulty": True, "contrast": 0.5}, True),
        ("twins", {"difficulty": True, "generated": 0.5, "contrast": 0.5}, False),
        ("twins", {"difficulty": True, "generated": 0.5, "contrast": 0.5, "quantiles": True}, True),
        ("siblings", {"difficulty": True, "weight": 2.0}, False),
        ("assistant", {"difficulty": True}, True),
        ("base", {"difficulty": True}, False),
        ("gold", {"difficulty": True, "quantiles": True}, False),
        ("auto", {"weight": 1.0}, False),
        ("gold", {"model": "gold"}, True),
        ("gold", {"model": "gold", "generated": 0.3}, False),
        ("siblings", {"retain_model": "one", "both_model": "other", "weight": 2.0}, True),
        ("siblings", {"share": 0.5}, False),
        ("neighbours", {"quantiles": True}, False),
        ("neighbours", {}, True),
    ],
)
def test_a_setting_that_the_source_does_not_read_is_known(source, given, read):
    config = SupportConfig(source=SupportSource(source), **given)
    unread = {key.removeprefix("support.") for key in unread_by(config)}
    assert unread.isdisjoint(given) == read


def test_every_source_that_can_be_named_is_registered():
    assert {*SOURCES, SupportSource.auto, SupportSource.neighbours} == set(SupportSource)
