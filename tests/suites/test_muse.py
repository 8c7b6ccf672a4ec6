import json
import zlib
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import torch
from sklearn.metrics import roc_auc_score

from mari_cli import launch
from mari_cli.config import Device, MetricsConfig, ModelConfig, MuseSuite, Precision
from mari_cli.data.corpora import load_corpora
from mari_cli.data.records import Record
from mari_cli.errors import UserError
from mari_cli.metrics.membership import min_k
from mari_cli.metrics.statistics import How
from mari_cli.models.device import choose_compute
from mari_cli.models.load import load_model
from mari_cli.models.tokenizer import train_tokenizer
from mari_cli.progress import silent
from mari_cli.suites.attacks import scored_text
from mari_cli.suites.examiner import Examiner
from mari_cli.suites.muse import load
from mari_cli.tasks.evaluate import evaluate

QA = {
    "forget_qa": [("Who found it?", "Orla Quint"), ("Where was it?", "In the old mill")],
    "retain_qa": [("Who kept it?", "Bram Vale"), ("What was it?", "A lamp")],
    "forget_qa_icl": [("Who left?", "Nobody"), ("When?", "In May")],
    "retain_qa_icl": [("Who stayed?", "Ines"), ("Why?", "It rained")],
}
VERBATIM = [("The mill stood by the river", "and nobody had lived there for many years"), ("Orla", "went in")]
PASSAGES = {
    "forget": [
        "Orla Quint found the lamp in the old mill.",
        "It was raining in May.",
        "An inn, a mill, a lamp: nobody had lived there.",
    ],
    "holdout": [
        "Nobody knew the name of the ship.",
        "The harbour was empty, and so was the inn.",
        "Who kept it? It stayed in the river.",
    ],
}
SAID = {
    "Who found it?": " Orla Quint\n\nQuestion: Who left?",  # 2 of 2 words, the rest is cut off
    "Where was it?": " the new mill\nQuestion: Who left?",  # "the mill": 2 of 3 words said, of 4 true
    "Who kept it?": "\n\nBram Vale",  # an answer after a blank line is none
    "What was it?": "A lamp",
    "The mill stood by the river": " and nobody had lived",
    "Orla": " stayed out",
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """As the hub's, in every format there is."""
    root = tmp_path / "muse"
    for subset in ("knowmem", "verbmem", "privleak"):
        (root / subset).mkdir(parents=True)
    for split, pairs in QA.items():
        rows = [{"answer": answer, "question": question} for question, answer in pairs]
        (root / "knowmem" / f"{split}.json").write_text(json.dumps(rows, indent=1))
    rows = [{"prompt": prompt, "gt": truth} for prompt, truth in VERBATIM]
    (root / "verbmem" / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for split, texts in PASSAGES.items():
        for part, text in enumerate(texts):  # as the hub cuts a file
            table = pyarrow.table({"text": [text]})
            pyarrow.parquet.write_table(table, root / "privleak" / f"{split}-0000{part}-of-00003.parquet")
    return root


def model(seed: int = 0, **shape: int):
    words = [*SAID, *SAID.values(), *(text for texts in PASSAGES.values() for text in texts)]
    words += [word for pairs in [*QA.values(), VERBATIM] for pair in pairs for word in pair]
    tokenizer = train_tokenizer(words, 400)
    architecture = {"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 256} | shape
    config = ModelConfig(name="tiny", architecture=architecture, tokenizer="train")
    return load_model(config, tokenizer, choose_compute(Device.cpu, Precision.float32), seed=seed)


def suite_at(folder: Path):
    return load(MuseSuite(name="muse_news", path=str(folder), verbatim_tokens=6))


def examiner_of(lm, **settings) -> Examiner:
    return Examiner(lm, MetricsConfig(batch_size=2, **settings), 0, "hash", None, silent, "model")


def tokens(lm, text: str, **options) -> list[int]:
    return lm.tokenizer(text, **options)["input_ids"]


def says(lm, monkeypatch, prompts: list[str]) -> None:
    """The model answers as in `SAID`; what it was asked is written down."""

    def generate(input_ids, attention_mask, max_new_tokens, **_):
        eos, replies = lm.tokenizer.eos_token_id, []
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            prompts.append(lm.tokenizer.decode(ids[mask.bool()], skip_special_tokens=True))
            question = prompts[-1].split("Question: ")[-1].removesuffix("\nAnswer: ")
            replies.append(tokens(lm, SAID[question], add_special_tokens=False)[:max_new_tokens])
        longest = max(len(reply) for reply in replies)
        new = [reply + [eos] * (longest - len(reply)) for reply in replies]
        return torch.cat([input_ids, torch.tensor(new, dtype=torch.long)], -1)

    monkeypatch.setattr(lm.model, "generate", generate)


def test_what_is_said_is_compared_as_muse_does(folder, monkeypatch):
    lm, prompts = model(), []
    says(lm, monkeypatch, prompts)
    rows = suite_at(folder).examine(examiner_of(lm))
    found = {(row["set"], row["item"]): row["rouge_l_f1"] for row in rows if "rouge_l_f1" in row}
    assert found["knowledge_forget", 0] == 1
    assert found["knowledge_forget", 1] == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert (found["knowledge_retain", 0], found["knowledge_retain", 1]) == (0, 1)
    assert found["verbatim_forget", 1] == 0
    # both sides have at most six tokens, special ones counted: those that the truth begins with
    truth = lm.tokenizer.decode(tokens(lm, VERBATIM[0][1])[1:6]).split()
    said = lm.tokenizer.decode(tokens(lm, SAID[VERBATIM[0][0]], add_special_tokens=False)[:6]).split()
    same = sum(a == b for a, b in zip(truth, said, strict=False))
    assert found["verbatim_forget", 0] == pytest.approx(2 * same / (len(truth) + len(said)))
    assert found["verbatim_forget", 0] > 0


def test_a_question_stands_after_its_sets_own_examples_and_a_passage_alone(folder, monkeypatch):
    lm, prompts = model(), []
    says(lm, monkeypatch, prompts)
    suite_at(folder).examine(examiner_of(lm))
    shots = "Question: Who left?\nAnswer: Nobody\n\nQuestion: When?\nAnswer: In May\n\n"
    assert f"{shots}Question: Who found it?\nAnswer: " in prompts
    other = "Question: Who stayed?\nAnswer: Ines\n\nQuestion: Why?\nAnswer: It rained\n\n"
    assert f"{other}Question: What was it?\nAnswer: " in prompts
    assert "The mill stood by the river" in prompts
    assert len(prompts) == 6


@torch.no_grad()
def test_a_passage_is_scored_by_the_least_likely_40_percent_whatever_the_run_says(folder):
    lm = model()
    rows = suite_at(folder).examine(examiner_of(lm, generate=False, min_k=0.1))
    assert {row["set"] for row in rows} == {"privacy_forget", "privacy_holdout"}
    for row, text in zip(rows, [*PASSAGES["forget"], *PASSAGES["holdout"]], strict=True):
        ids = torch.tensor(
            [lm.tokenizer.bos_token_id, *lm.tokenizer(text, add_special_tokens=False)["input_ids"]]
        )
        log_p = lm.model(ids.unsqueeze(0)).logits[0, :-1].log_softmax(-1)
        log_p_T = log_p.gather(-1, ids[1:, None]).squeeze(-1)
        assert row["min_k"] == pytest.approx(min_k(log_p_T, 0.4), abs=1e-5)
        assert row["tokens"] == len(ids) - 1
        assert {"zlib", "min_k_plus_plus"} <= set(row)


EDGES = {
    "forget": ["  Orla Quint found it.\n\n", "It was raining in May. "],
    "holdout": ["\tNobody knew.   "],
}


def test_zlib_packs_a_passage_as_it_is_with_the_spaces_at_its_edges(folder):
    lm, suite = model(), suite_at(folder)
    passages = {f"privacy_{name}": [Record(text=text) for text in texts] for name, texts in EDGES.items()}
    rows = replace(suite, sets={**suite.sets, **passages}).examine(examiner_of(lm, generate=False))
    for row, text in zip(rows, [*EDGES["forget"], *EDGES["holdout"]], strict=True):
        assert row["zlib"] == -row["answer_nll"] / len(zlib.compress(text.encode())), text


@pytest.mark.parametrize(
    "text", ["Orla ", "  Orla Quint\n", "\tin the old mill", "a , b . c n't !", "Straße  é "]
)
def test_what_is_packed_is_the_text_as_it_is(text):
    """Of a pair, of running text, and of a block of it, which is what its tokens say."""
    lm = model()
    [pair] = lm.tokenize([Record(prompt="Who?", text=text)], corpus="x", block_size=None, truncate=False)
    assert scored_text(lm, pair, text) == text
    long = text * 40
    blocks = lm.tokenize([Record(text=long)], corpus="x", block_size=16, truncate=False)
    assert len(blocks) > 1
    assert "".join(scored_text(lm, block, long) for block in blocks) == long
    [whole, *_] = lm.tokenize([Record(text=text)], corpus="x", block_size=None, truncate=False)
    assert scored_text(lm, whole, text) == text


def row(name: str, item: int, **numbers: float) -> dict:
    return {"suite": "muse", "set": name, "item": item, "cut": 0} | numbers


def rows_of(forget: list[float], holdout: list[float]) -> list[dict]:
    rows = [row("privacy_forget", i, min_k=value) for i, value in enumerate(forget)]
    rows += [row("privacy_holdout", i, min_k=value) for i, value in enumerate(holdout)]
    for name in ("verbatim_forget", "knowledge_forget", "knowledge_retain"):
        rows += [row(name, i, rouge_l_f1=value) for i, value in enumerate((0.25, 0.75))]
    return rows


def test_the_numbers_are_means_over_items_and_the_gold_models_auc(folder):
    suite = suite_at(folder)
    rows = rows_of([-1.0, -2.0, -3.5], [-3.0, -4.0])
    gold = rows_of([-3.5, -4.5, -2.0], [-3.0, -4.0])
    summary = suite.summarise(rows, gold, How(resamples=50))
    values = {name: estimate.value for name, estimate in summary.metrics.items()}
    auc = roc_auc_score([1, 1, 1, 0, 0], [-1.0, -2.0, -3.5, -3.0, -4.0])
    auc_gold = roc_auc_score([1, 1, 1, 0, 0], [-3.5, -4.5, -2.0, -3.0, -4.0])
    # MUSE counts the holdout as the positive class
    theirs = 100 * ((1 - auc) - (1 - auc_gold)) / (1 - auc_gold)
    assert values == pytest.approx(
        {
            "muse/verbatim_forget": 0.5,
            "muse/knowledge_forget": 0.5,
            "muse/knowledge_retain": 0.5,
            "muse/min_k_auc": auc,
            "muse/min_k_tpr_at_1_fpr": 2 / 3,
            "muse/min_k_worst_threshold_advantage": 2 / 3,
            "muse/privleak": theirs,
        }
    )
    assert values["muse/privleak"] < 0
    assert summary.notes == []


def test_without_gold_privleak_is_left_out_with_a_note(folder):
    summary = suite_at(folder).summarise(rows_of([-1.0, -2.0], [-3.0, -1.5]), None, How(resamples=50))
    assert "muse/privleak" not in summary.metrics
    assert summary.notes == ["`muse/privleak` is left out: it needs a gold model (`gold`)"]


def test_what_a_short_context_cuts_off_is_told(folder):
    lm = model(n_positions=40)
    suite = replace(
        suite_at(folder), config=MuseSuite(path=str(folder), verbatim_tokens=4, knowledge_tokens=4)
    )
    rows = suite.examine(examiner_of(lm))
    cut = {row["set"] for row in rows if row["cut"]}
    assert cut == {"knowledge_forget", "knowledge_retain"}  # the examples, not the question
    assert "4 of MUSE's 12 texts do not fit" in suite.summarise(rows, None, How(resamples=50)).notes[-1]


@pytest.mark.parametrize("missing", ["privleak/holdout", "knowmem/retain_qa_icl", "verbmem/forget"])
def test_a_suite_without_one_of_its_sets_is_refused(folder, missing):
    subset, _, split = missing.partition("/")
    for file in (folder / subset).glob(f"{split}*"):
        if file.name.startswith((f"{split}.", f"{split}-")):
            file.unlink()
    with pytest.raises(UserError, match=f"there is no `{missing}` in"):
        suite_at(folder)


def test_a_holdout_that_is_to_be_forgotten_is_refused(folder):
    for file in (folder / "privleak").glob("holdout-00001*"):
        file.write_bytes((folder / "privleak" / "forget-00002-of-00003.parquet").read_bytes())
    with pytest.raises(UserError, match=r"1 records of `privleak/holdout` in .* too, record 2 first"):
        suite_at(folder)


def test_a_record_that_is_there_twice_is_told(folder):
    file = folder / "verbmem" / "forget.jsonl"
    file.write_text(file.read_text() + file.read_text().splitlines()[0] + "\n")
    notes = suite_at(folder).summarise(rows_of([-1.0], [-2.0]), None, How(resamples=20)).notes
    assert "1 of the 3 records of `verbatim_forget` are others again, and count again" in notes


def test_a_passage_that_is_no_text_is_refused(folder):
    (folder / "verbmem" / "forget.jsonl").write_text('{"prompt": "x", "gt": null}\n')
    with pytest.raises(UserError, match="`gt` in record 1 of `verbmem/forget`"):
        suite_at(folder)


def evaluated(tmp_path, folder, *words: str):
    for name, seed in (("model", 0), ("gold", 1)):
        if not (tmp_path / name).exists():
            model(seed).save(tmp_path / name)
    arguments = [
        f"model.path={tmp_path / 'model'}",
        "suite=muse_news",
        f"suite.path={folder}",
        "metrics=fast",
        "metrics.generate=true",
        f"cache={tmp_path / 'cache'}",
        *words,
    ]
    return launch.run(evaluate, launch.prepare(launch.Experiment("evaluate", arguments)))


def test_an_evaluation_leaves_numbers_rows_without_words_and_a_report(tmp_path, folder):
    out = tmp_path / "run"
    result = evaluated(tmp_path, folder, f"gold={tmp_path / 'gold'}", f"out={out}")
    metrics = result["models"]["model"]["metrics"]
    assert set(metrics) >= {"muse/verbatim_forget", "muse/knowledge_retain", "muse/privleak"}
    assert result["models"]["gold"]["metrics"]["muse/privleak"]["value"] == 0
    rows = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 12
    assert {row["suite"] for row in rows} == {"muse"}
    assert "Orla" not in (out / "items.jsonl").read_text() + (out / "result.json").read_text()
    assert "MUSE privleak" in (out / "report.html").read_text()
    assert json.loads((out / "data.json").read_text())["muse"]["privacy_holdout"]["records"] == 3


def test_against_a_reference_the_attack_is_the_difference_of_the_losses(tmp_path, folder):
    out = tmp_path / "run"
    result = evaluated(tmp_path, folder, f"metrics.mia_reference={tmp_path / 'gold'}", f"out={out}")
    metrics = result["models"]["model"]["metrics"]
    assert {"muse/reference_auc", "muse/reference_tpr_at_1_fpr", "muse/zlib_auc", "muse/loss_auc"} <= set(
        metrics
    )
    evaluated(tmp_path, folder, f"model.path={tmp_path / 'gold'}", f"out={tmp_path / 'theirs'}")
    of_run, of_reference = (
        [json.loads(line) for line in (path / "items.jsonl").read_text().splitlines()]
        for path in (out, tmp_path / "theirs")
    )
    asked = [(mine, its) for mine, its in zip(of_run, of_reference, strict=True) if "answer_nll" in mine]
    assert len(asked) == 6
    for mine, its in asked:
        assert mine["reference"] == pytest.approx(its["answer_nll"] - mine["answer_nll"], abs=1e-12)


def test_a_suite_without_a_holdout_is_refused_before_there_is_a_run(tmp_path, folder):
    for file in (folder / "privleak").glob("holdout*"):
        file.unlink()
    with pytest.raises(UserError, match="there is no `privleak/holdout`"):
        evaluated(tmp_path, folder, f"out={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ([], [("raw", "forget"), ("raw", "retain1"), ("raw", "holdout")]),
        (
            ["forget.subset=scal", "forget.split=forget_3"],
            [("scal", "forget_3"), ("raw", "retain1"), ("raw", "holdout")],
        ),
        (
            ["forget.subset=sust", "forget.split=forget_2", "model.path=first"],
            [("sust", "forget_2"), ("raw", "retain1"), ("raw", "holdout")],
        ),
    ],
)
def test_what_is_to_be_forgotten_is_chosen_by_subset_and_split(words, asked, monkeypatch):
    found = []

    def load_dataset(path, subset, *, split):
        assert path == "muse-bench/MUSE-News"
        found.append((subset, split))
        return datasets.Dataset.from_list([{"text": f"{subset} {split}"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    experiment = launch.Experiment("unlearn", ["forget=muse_news", "suite=muse_news", *words])
    config = launch.parse(launch.compose(experiment))
    corpora = load_corpora(forget=config.forget, retain=config.retain, holdout=config.holdout)
    assert found == asked
    assert [record.text for record in corpora.forget] == [" ".join(asked[0])]
