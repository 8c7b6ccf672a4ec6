"""Every attack by its name, in the order in which they are tried."""

from mari_cli.audit.attack import AuditAttack
from mari_cli.audit.distance import DISTANCE
from mari_cli.audit.logit_lens import LOGIT_LENS
from mari_cli.audit.patching import PATCHING
from mari_cli.audit.plain import PLAIN
from mari_cli.audit.probe import PROBE
from mari_cli.audit.prompts import PROMPTS
from mari_cli.audit.quantisation import QUANTISATION
from mari_cli.audit.relearning import RELEARNING
from mari_cli.audit.sampling import SAMPLING
from mari_cli.audit.traces import TRACES

ATTACKS: dict[str, AuditAttack] = {
    attack.name: attack
    for attack in (
        PLAIN,
        QUANTISATION,
        PROMPTS,
        SAMPLING,
        LOGIT_LENS,
        PROBE,
        PATCHING,
        RELEARNING,
        TRACES,
        DISTANCE,
    )
}
