"""No attack: what the model gives away when it is asked as it was taught."""

from mari_cli.audit.attack import AuditAttack, Case, CaseValues, Evidence, measure_recall
from mari_cli.config import AuditConfig
from mari_cli.models.load import LanguageModel


def cases(config: AuditConfig, evidence: Evidence) -> tuple[list[Case], list[str]]:
    return [Case("plain", "greedy", "asked as it was taught, without an attack", {}, 1)], []


def run(lm: LanguageModel, case: Case, evidence: Evidence) -> CaseValues:
    values = measure_recall(lm, evidence.items, prompted=evidence.has_prompts, batch_size=evidence.batch_size)
    return CaseValues(list(values))


PLAIN = AuditAttack("plain", "not forgotten", cases, run)
