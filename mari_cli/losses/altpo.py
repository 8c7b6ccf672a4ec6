"""AltPO: direct preference optimisation that prefers other plausible answers to those of the forget data.

A. Mekala et al. 2024, "Alternate Preference Optimization for Unlearning Factual Knowledge in Large Language
Models", https://arxiv.org/abs/2409.13474. The loss is DPO's (losses/preference.py), and agrees with
OpenUnlearning's. The alternates come from a file, or the model before step 1 writes them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mari_cli.losses.base import Alternates, HeldLossConfig, register
from mari_cli.sections import positive, require, seeds

if TYPE_CHECKING:
    from mari_cli.losses.objective import Objective

INSTRUCTION = (
    "Question: {prompt}\nAnswer: {answer}\nWrite another answer to this question. It has to be as plausible "
    "as the answer above, and every fact in it has to be another one."
)


@register
@dataclass(kw_only=True)
class AltPOConfig(HeldLossConfig):
    kind: str = "altpo"
    beta: float = positive(0.1)
    """Inverse temperature, as in NPO."""
    path: str | None = None
    """A file with pairs of a forget prompt and another answer to it, in any format of a corpus. Null: the
    model before step 1 writes the answers."""
    prompt_field: str | None = None
    completion_field: str | None = None
    """Names of the fields of `path`, as those of a corpus."""
    instruction: str = INSTRUCTION
    """The prompt by which the model before step 1 is asked, with {prompt} and {answer}."""
    alternates: int = positive(5)
    """Answers that the model writes to each prompt; each step takes the next one."""
    temperature: float = positive(1.0)
    max_new_tokens: int = positive(200)
    seed: int = seeds(0)
    """Seed of the answers that the model writes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("{prompt}" in self.instruction, "loss.instruction must hold {prompt}")

    def unread(self) -> dict[str, str]:
        asked = ("instruction", "alternates", "temperature", "max_new_tokens", "seed")
        by_file = dict.fromkeys(("prompt_field", "completion_field"), "`loss.path`")
        return super().unread() | (dict.fromkeys(asked, "`loss.path=null`") if self.path else by_file)

    @property
    def alternates_request(self) -> Alternates:
        return self

    def objective(self) -> "Objective":
        from mari_cli.losses.preference import preferring_alternatives

        return preferring_alternatives(self, beta=self.beta)
