"""Run directories with numbers like those of real runs, for tests of what reads them."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

TARGET, GOLD = "target", "gold"
PEOPLE = ["Odalys Brenn", "Tamsin Vael", "Ruvim Askarel", "Ilse Quorn", "Perrin Dask", "Maro Lind"]

# (median forget loss, its spread in log units, loss AUC, retain accuracy, unique recall, shared recall)
METHODS: dict[str, tuple[float, float, float, float, float, float]] = {
    "target": (0.006, 0.9, 0.998, 0.991, 1.00, 0.99),
    "gold": (0.96, 0.45, 0.497, 0.989, 0.03, 0.97),
    "mari": (0.93, 0.50, 0.520, 0.984, 0.05, 0.96),
    "npo": (1.55, 1.10, 0.330, 0.958, 0.08, 0.71),
    "kl_ga": (4.80, 1.60, 0.130, 0.962, 0.15, 0.52),
    "weak": (0.20, 0.90, 0.905, 0.990, 0.62, 0.98),
}
TERMS = {"mari": "marginal_information", "npo": "npo", "kl_ga": "forget_nll", "weak": "marginal_information"}


def _estimate(value: float, n: int, spread: float, *, high: float = math.inf) -> dict[str, float]:
    return {"value": value, "low": max(0.0, value - spread), "high": min(high, value + spread), "n": n}


def _share(value: float, n: int) -> dict[str, float]:
    return _estimate(value, n, 1.96 * math.sqrt(max(value * (1 - value), 0.004) / n), high=1.0)


def metrics_of(method: str, n: int, losses: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """A model's metrics, by the losses of its items and the profile of its method."""
    _, _, auc, retain, unique, shared = METHODS[method]
    metrics: dict[str, dict[str, float]] = {}
    for name, values in losses.items():
        nll = sum(values) / len(values)
        known = retain if name == "retain" else sum(math.exp(-v) for v in values) / len(values)
        sd = math.sqrt(sum((v - nll) ** 2 for v in values) / len(values))
        metrics |= {
            f"{name}/answer_nll": _estimate(nll, len(values), 1.96 * sd / math.sqrt(len(values))),
            f"{name}/answer_probability": _share(known, len(values)),
            f"{name}/token_accuracy": _share(
                min(1.0, 0.35 + 0.65 * known) if name != "retain" else known, 8 * n
            ),
            f"{name}/exact_match": _share(
                max(0.0, (known - 0.3) / 0.7) if name != "retain" else known - 0.01, n
            ),
            f"{name}/exact_memorization": _share(min(1.0, 0.34 + 0.65 * known), n),
            f"{name}/extraction_strength": _share(known**2, n),
            f"{name}/perplexity": _estimate(math.exp(nll), len(values), 0.1 * math.exp(nll)),
            f"{name}/verbatim_rouge_l": _share(min(1.0, 0.3 + 0.7 * known), n),
        }
    pooled = {"target": 0.031, "gold": 0.017}.get(method, 0.019)
    tv = math.sqrt(2 * pooled) * 0.6
    return {
        **metrics,
        "privacy/loss_auc": _share(auc, n),
        "privacy/min_k_auc": _share(0.5 + 0.97 * (auc - 0.5), n),
        "privacy/worst_threshold_advantage": _share(abs(2 * auc - 1), n),
        "marginal/pooled": _estimate(pooled, n, 0.003),
        "marginal/token": _estimate(2.4 * pooled, n, 0.006),
        "marginal/fano_accuracy_bound": _estimate(0.5 + math.sqrt(pooled / 2), n, 0.006),
        "marginal/bayes_accuracy": _estimate(0.5 + tv / 2, n, 0.006),
        "marginal/tv": _estimate(tv, n, 0.012),
        "facts/unique_recall": _share(unique, n // 2),
        "facts/shared_recall": _share(shared, n // 2),
        "benchmark/mmlu": _share(0.253, 285),
    }


def _tofu(items: list[dict[str, Any]], kind: str) -> dict[str, dict[str, float]]:
    """A suite's metrics: the forget truth ratio from its items, the rest by the profile of the method."""
    ratios = [item["truth_ratio"] for item in items if "truth_ratio" in item]
    value = sum(min(ratio, 1 / ratio) for ratio in ratios) / len(ratios)
    utility = {"target": 0.62, "gold": 0.61, "mari": 0.60}.get(kind, 0.45)
    return {
        "tofu/forget_quality": _share({"target": 1e-6, "gold": 1.0}.get(kind, 0.08), 60),
        "tofu/model_utility": _estimate(utility, 240, 0.02),
        "tofu/forget/truth_ratio": _estimate(value, len(ratios), 0.05),
    }


def write_run(
    path: Path,
    *,
    method: str = "mari",
    name: str | None = None,
    n: int = 160,
    without: tuple[str, ...] = (),
    edit: Callable[[dict[str, Any]], None] | None = None,
    examples: list[dict[str, str]] | None = None,
) -> Path:
    """Write a finished unlearning run.

    ``without`` leaves out any of: gold, holdout, facts, generated, marginal, items, steps, intervals, data,
    suite. ``edit`` changes the result before it is written.
    """
    chance = random.Random(0)  # the same target and gold in every run
    path.mkdir(parents=True)
    models = {"target": "target", "unlearned": method} | ({} if "gold" in without else {"gold": "gold"})
    sets = {"forget": n, "retain": n} | ({} if "holdout" in without else {"holdout": n})
    results: dict[str, Any] = {}
    items: list[dict[str, Any]] = []
    for role in ("target", "gold", "unlearned"):
        if role not in models:
            continue
        kind = models[role]
        if role == "unlearned":
            chance = random.Random(method)
        median, spread, *_ = METHODS[kind]
        losses = {}
        for corpus, count in sets.items():
            centre, width = {"forget": (median, spread), "retain": (0.008, 0.8), "holdout": (1.03, 0.45)}[
                corpus
            ]
            losses[corpus] = [centre * math.exp(chance.gauss(0, width)) for _ in range(count)]
            items += [
                {
                    "model": role,
                    "set": corpus,
                    "item": item,
                    "key": f"{item:016x}",
                    "fact": ("unique" if item % 2 else "shared")
                    if corpus == "forget" and "facts" not in without
                    else None,
                    "answer_nll": loss,
                    "min_k": -1.4 * loss,
                    "zlib": -loss / (20 + item % 7),
                    "answer_probability": math.exp(-loss),
                    "exact_match": int(loss < 0.1),
                    "tokens": 12,
                }
                for item, loss in enumerate(losses[corpus])
            ]
        if "suite" not in without:
            known, ratios = {"target": 0.45, "gold": 0.8}.get(kind, 0.75), random.Random(f"{kind} ratios")
            items += [
                {
                    "model": role,
                    "suite": "tofu",
                    "set": "forget",
                    "item": item,
                    "key": f"{item:016x}",
                    "answer_nll": losses["forget"][item],
                    "truth_ratio": known * math.exp(ratios.gauss(0, 0.4)),
                }
                for item in range(min(60, n))
            ]
        metrics = {
            key: value
            for key, value in metrics_of(kind, n, losses).items()
            if not (
                ("holdout" in without and key.startswith("privacy/"))
                or ("facts" in without and key.startswith("facts/"))
                or ("marginal" in without and key.startswith("marginal/"))
                or ("generated" in without and ("rouge" in key or key.startswith("facts/")))
            )
        }
        if "suite" not in without:
            metrics |= _tofu([item for item in items if item["model"] == role], kind)
        if "intervals" in without:
            metrics = {
                key: {"value": v["value"], "low": None, "high": None, "n": v["n"]}
                for key, v in metrics.items()
            }
        results[role] = {"metrics": metrics, "hash": f"hash-of-{kind}"}
    result: dict[str, Any] = {
        "schema_version": 1,
        "task": "unlearn",
        "name": name or method.replace("_", " "),
        "loss": method,
        "command": ["mari", "unlearn", f"loss={method}", "model.prompt_template=Question: {prompt}"],
        "created": "2025-11-23T20:50:11+00:00",
        "seconds": 131.7,
        "models": results,
        "training": {
            "steps": 120,
            "kept_step": 100,
            "stopped_by": "retain accuracy 0.9541 fell more than 0.03 below its start 0.9912",
            "precision": "float32",
            "precision_reason": "auto: CPU",
            "device": "cpu",
            "tokens": 48211,
            "layout": "padded (auto: its attention is not causal)",
            "pooling_scope": "step",
            "micro_batch": 4,
            "chunk": 1024,
            "keep_logits": None,
            "gradient_checkpointing": False,
            "kernels": "eager (only compiled on CUDA)",
        },
        "notes": ["3 retain records were left out because they are forget records too"],
    }
    rows = _rows(method, results, without)
    if edit:
        edit(result)
    if "steps" not in without:
        (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if "items" not in without:
        (path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (path / "examples.json").write_text(json.dumps(_examples(models) if examples is None else examples))
    (path / "config.yaml").write_text(
        "seed: 0\nmodel:\n  name: gpt2_tiny\nforget:\n  name: fictional\npeople: 20\nloss:\n  name: "
        f"{method}\n"
        "train:\n  steps: 200\n  keep: best\nmetrics:\n  confidence: 0.95\n  prior: 0.5\n"
    )
    (path / "run.json").write_text(
        json.dumps({key: result[key] for key in ("schema_version", "task", "command", "created")})
    )
    (path / "environment.json").write_text(
        json.dumps(
            {
                "mari": "0.1.0",
                "python": "3.12.4",
                "versions": {"torch": "2.9.0", "transformers": "5.1.0"},
                "seed": 0,
                "git": None,
            }
        )
    )
    if "data" not in without:
        (path / "data.json").write_text(
            json.dumps(
                {
                    corpus: {
                        "name": "fictional",
                        "records": count,
                        "sha256": f"{corpus:0<64}",
                        "tokens": 12 * count,
                    }
                    for corpus, count in sets.items()
                }
            )
        )
    (path / "result.json").write_text(json.dumps(result))
    return path


def _rows(method: str, results: dict[str, Any], without: tuple[str, ...]) -> list[dict[str, float | str]]:
    """A training that moves from the target's numbers past the kept step, with noise of its own."""
    chance = random.Random(method + "steps")
    start, end = (results[role]["metrics"] for role in ("target", "unlearned"))
    names = ["forget/answer_nll", "forget/token_accuracy", "retain/token_accuracy", "retain/answer_nll"]
    names += [] if "holdout" in without else ["holdout/answer_nll", "privacy/loss_auc"]
    rows: list[dict[str, float | str]] = []
    for step in range(1, 121):
        done = step / 100
        term = 0.5 * math.exp(-3 * done) * math.exp(chance.gauss(0, 0.12))
        if method == "kl_ga":
            term = end["forget/answer_nll"]["value"] * done**3 + 0.01
        kl = 0.02 * done * math.exp(chance.gauss(0, 0.3))
        rows.append(
            {
                "step": step,
                "kind": "train",
                "loss": (-0.1 if method == "kl_ga" else 10) * term + kl,
                TERMS[method]: term,
                "retain_kl": kl,
                "lr": 1e-4,
                "grad_norm": 1.0,
                "seconds": 0.5,
                "tokens_per_second": 800.0 + step,
            }
        )
        if step % 20 == 0:
            rows.append(
                {"step": step, "kind": "eval"}
                | {
                    name: start[name]["value"] * (1 - min(1.2, done) ** 2)
                    + end[name]["value"] * min(1.2, done) ** 2
                    + (-0.03 if name == "retain/token_accuracy" and step == 120 else 0)
                    for name in names
                }
            )
    return rows


def _examples(models: dict[str, str]) -> list[dict[str, str]]:
    found = []
    for number, person in enumerate(PEOPLE):
        answer = f"{person} was born in Karsholm and kept the lamps of the harbour."
        found.append(
            {
                "prompt": f"Where was {person} born, and what was their trade?",
                "answer": answer,
                "target": answer,
            }
            | {"unlearned": "" if number == 3 else f"{person} was born in Ost Venn and bound books."}
            | ({"gold": f"{person} was born in Tarn Ferry and mended clocks."} if "gold" in models else {})
        )
    return found
