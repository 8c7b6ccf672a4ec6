"""Sampling: the best of k answers at a temperature, since the greedy one hides what the next ones say.

"Leak@k: Unlearning Does Not Make LLMs Forget Under Probabilistic Decoding" (2025, arXiv:2511.04934). Of n
samples of which c recall the answer, the chance that k of them hold one is 1 - C(n - c, k) / C(n, k), without
bias, as pass@k (M. Chen et al. 2021, arXiv:2107.03374).
"""

from math import comb

from mari_cli.audit.attack import AuditAttack, Case, CaseValues, Evidence, wanted_of
from mari_cli.config import AuditConfig
from mari_cli.errors import counted
from mari_cli.metrics.generation import recalled
from mari_cli.models.load import LanguageModel
from mari_cli.progress import silent
from mari_cli.suites.generate import Sampling, decode, generate, question_and_truth


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
    questions = [question_and_truth(item)[0] for item in evidence.items]
    said = generate(
        lm,
        [question for question in questions for _ in range(samples)],
        max_new_tokens=int(settings["max_new_tokens"]),
        batch_size=evidence.batch_size,
        track=silent,
        description="",
        sampling=Sampling(float(settings["temperature"]), evidence.seed),
    )
    values: list[float | None] = []
    for i in range(len(questions)):
        wanted = wanted_of(lm, evidence, i)
        answers = said[i * samples : (i + 1) * samples]
        right = sum(recalled(decode(lm, answer), wanted) for answer in answers)
        values.append(leak_at(best_of, samples, right))
    return CaseValues(values)


def leak_at(k: int, n: int, c: int) -> float:
    """The chance that k of n samples, c of which recall the answer, hold one that does."""
    return 1.0 - comb(n - c, k) / comb(n, k)


SAMPLING = AuditAttack("sampling", "hidden, not gone", cases, run)
