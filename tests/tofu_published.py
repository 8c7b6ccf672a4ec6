"""TOFU's published evaluation logs (tofu_logs/README.md), and what they must give."""

import gzip
import json
from pathlib import Path
from typing import Any

LOGS = Path(__file__).parent / "tofu_logs"
FORGET, RETAIN = "eval_log_forget.json", "eval_log.json"
AUTHORS, FACTS = "eval_real_author_wo_options.json", "eval_real_world_wo_options.json"
PREFIXES = {FORGET: "forget", RETAIN: "retain", AUTHORS: "ra", FACTS: "wf"}

LEADERBOARD = {
    "full": {
        "tofu/forget_quality": 1.834066410994743e-21,
        "tofu/model_utility": 0.6226773637427153,
        "tofu/retain/probability": 0.9895272273969072,
        "tofu/retain/rouge_l_recall": 0.9856545937933034,
        "tofu/retain/truth_ratio": 0.47469858801063763,
        "tofu/authors/probability": 0.45548207783762884,
        "tofu/authors/rouge_l_recall": 0.9329999999999999,
        "tofu/authors/truth_ratio": 0.5962289157077106,
        "tofu/facts/probability": 0.41856180755948974,
        "tofu/facts/rouge_l_recall": 0.8824786324786325,
        "tofu/facts/truth_ratio": 0.5390328416393139,
        "tofu/forget/probability": 0.9909385566403213,
        "tofu/forget/rouge_l_recall": 0.985449693916369,
        "tofu/forget/truth_ratio": 0.5159854212808592,
    },
    "retain90": {
        "tofu/forget_quality": 1.0,
        "tofu/model_utility": 0.613744995233942,
        "tofu/retain/probability": 0.9888967275083739,
        "tofu/retain/rouge_l_recall": 0.9758111850816836,
        "tofu/retain/truth_ratio": 0.47097713402452873,
        "tofu/authors/probability": 0.434087175400151,
        "tofu/authors/rouge_l_recall": 0.9229999999999999,
        "tofu/authors/truth_ratio": 0.5706808914420933,
        "tofu/facts/probability": 0.4143263304391235,
        "tofu/facts/rouge_l_recall": 0.8974358974358975,
        "tofu/facts/truth_ratio": 0.5441982317366325,
        "tofu/forget/probability": 0.14756281225669543,
        "tofu/forget/rouge_l_recall": 0.4082436195223163,
        "tofu/forget/truth_ratio": 0.6740192657877031,
    },
}
"""notebook/leaderboard/llama-10p/llama-10p.csv of locuslab/tofu, its first two rows."""


def published(model: str) -> dict[str, Any]:
    """The log of `full` or `retain90`, without texts."""
    log: dict[str, Any] = json.loads(gzip.decompress((LOGS / f"llama2-7b_{model}.json.gz").read_bytes()))
    return log


def as_open_unlearning(log: dict[str, Any]) -> dict[str, Any]:
    """The same values as OpenUnlearning lays them out."""
    found: dict[str, Any] = {}
    for file, columns in log.items():
        prefix = PREFIXES[file]
        losses = {"Prob": "avg_gt_loss", "PERT_Prob": "average_perturb_loss"}
        losses |= {"PARA_Prob": "avg_paraphrased_loss"} if file in (FORGET, RETAIN) else {}
        for name, column in losses.items():
            values = {i: {"prob": None, "avg_loss": loss} for i, loss in columns[column].items()}
            found[f"{prefix}_Q_A_{name}"] = {"agg_value": None, "value_by_index": values}
        rouge = {
            i: {"rouge1_recall": columns["rouge1_recall"][i], "rougeL_f1": 0.5, "rougeL_recall": recall}
            for i, recall in columns["rougeL_recall"].items()
        }
        found[f"{prefix}_Q_A_ROUGE"] = {"agg_value": None, "value_by_index": rouge}
    return found
