"""Sampling: the best of k answers at a temperature, since the greedy one hides what the next ones say.

"Leak@k: Unlearning Does Not Make LLMs Forget Under Probabilistic Decoding" (2025, arXiv:2511.04934). Of n
samples of which c recall the answer, the chance that k of them hold one is 1 - C(n - c, k) / C(n, k), without
bias, as pass@k (M. Chen et al. 2021, arXiv:2107.03374).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import comb
from typing import Any

import torch
from transformers import GenerationConfig

from mari_cli.audit.attack import AuditAttack, Case, CaseValues, Evidence
from mari_cli.config import AuditConfig
from mari_cli.data.batches import length_sorted
from mari_cli.errors import counted
from mari_cli.metrics.generation import recalled
from mari_cli.models.load import LanguageModel
from mari_cli.suites.generate import decode, question_and_truth


def cases(config: AuditConfig, evidence: Evidence) -> tuple[list[Case], list[str]]:
    settings = config.sampling
    if not evidence.has_prompts:
        return [], ["sampling is left out: running text has no answer that a sample could hold"]
    found = [
        Case(
            "sampling",
            f"best_of_{settings.best_of}_at_{temperature:g}",
            f"the best of {counted(settings.best_of, 'answer')} at temperature {temperature:g}, "
            f"from {settings.samples} samples",
            {
                "temperature": temperature,
                "best_of": settings.best_of,
                "samples": settings.samples,
                "max_new_tokens": settings.max_new_tokens,
            },
            settings.samples * 4,
        )
        for temperature in settings.temperatures
    ]
    return found, []


def run(lm: LanguageModel, case: Case, evidence: Evidence) -> CaseValues:
    settings = case.settings
    samples, best_of = int(settings["samples"]), int(settings["best_of"])
    right = [0] * len(evidence.chosen)
    wanted = [_wanted(lm, evidence, i) for i in range(len(evidence.chosen))]
    questions = [question_and_truth(item)[0] for item in evidence.items]
    for indices in length_sorted([len(question) for question in questions], evidence.batch_size):
        said = sample(
            lm,
            [questions[i] for i in indices],
            samples=samples,
            temperature=float(settings["temperature"]),
            max_new_tokens=int(settings["max_new_tokens"]),
            seed=evidence.seed * 1_000_003 + indices[0],
        )
        for i, answers in zip(indices, said, strict=True):
            right[i] = sum(recalled(decode(lm, answer), wanted[i]) for answer in answers)
    values: list[float | None] = [leak_at(best_of, samples, count) for count in right]
    return CaseValues(values)


def leak_at(k: int, n: int, c: int) -> float:
    """The chance that k of n samples, c of which recall the answer, hold one that does."""
    return 1.0 - comb(n - c, k) / comb(n, k)


@torch.no_grad()
def sample(
    lm: LanguageModel,
    questions: list[tuple[int, ...]],
    *,
    samples: int,
    temperature: float,
    max_new_tokens: int,
    seed: int,
) -> list[list[list[int]]]:
    """For each of ``questions`` so many answers, drawn from the whole distribution at ``temperature``."""
    lm.model.eval()
    ends = lm.stop_token_ids
    width = max(map(len, questions))
    room = min(max_new_tokens, lm.max_length - width)
    if room <= 0:
        return [[[] for _ in range(samples)] for _ in questions]
    input_ids_BT = torch.zeros(len(questions), width, dtype=torch.long)
    mask_BT = torch.zeros_like(input_ids_BT)
    for row, question in enumerate(questions):  # generation continues at the right edge
        input_ids_BT[row, width - len(question) :] = torch.tensor(question)
        mask_BT[row, width - len(question) :] = 1
    devices = [lm.device] if lm.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        lm.compute.autocast(),
        _from_the_whole(lm, ends, temperature),
    ):
        torch.manual_seed(seed)
        model_generate: Any = lm.model.generate
        output = model_generate(
            input_ids_BT.to(lm.device),
            attention_mask=mask_BT.to(lm.device),
            max_new_tokens=room,
            num_return_sequences=samples,
        )
    new = [_until(row.tolist(), ends) for row in output[:, width:].cpu()]
    return [new[row * samples : (row + 1) * samples] for row in range(len(questions))]


@contextmanager
def _from_the_whole(lm: LanguageModel, ends: list[int], temperature: float) -> Iterator[None]:
    """Inside, `generate` draws from the whole distribution, whatever the checkpoint sets."""
    own: Any = lm.model.generation_config
    lm.model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        use_cache=True,
        eos_token_id=ends,
        pad_token_id=lm.tokenizer.eos_token_id,
    )
    try:
        yield
    finally:
        lm.model.generation_config = own


def _until(ids: list[int], ends: list[int]) -> list[int]:
    return ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))]


def _wanted(lm: LanguageModel, evidence: Evidence, i: int) -> str:
    """What an answer must hold: the value of the fact where the corpus knows it, else the whole answer."""
    record = evidence.records[i]
    return record.value or decode(lm, question_and_truth(evidence.items[i])[1])


SAMPLING = AuditAttack("sampling", "hidden, not gone", cases, run)
