"""AltPO: direct preference optimisation that prefers other plausible answers to those of the forget data.

A. Mekala et al. 2024, "Alternate Preference Optimization for Unlearning Factual Knowledge in Large Language
Models", https://arxiv.org/abs/2409.13474. The loss is that of DPO (losses/preference.py) and agrees with
OpenUnlearning's in value and gradient. The alternates are the model's own before step 1, or a file's.
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
    beta: float = 0.1
    """Inverse temperature, as NPO's."""
    path: str | None = None
    """A file with pairs of a prompt of the forget data and another answer to it, in any form of a corpus;
    null: the model before writes them."""
    prompt_field: str | None = None
    completion_field: str | None = None
    """Names of its fields, as those of a corpus."""
    instruction: str = INSTRUCTION
    """What the model before is asked, with {prompt} and {answer}."""
    alternates: int = 5
    """How many answers it writes to each prompt; they are taken in turn, step by step."""
    temperature: float = 1.0
    max_new_tokens: int = 200
    seed: int = 0
    """Of its answers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("loss", self, "beta", "alternates", "temperature", "max_new_tokens")
        seeds("loss.", self, "seed")
        require("{prompt}" in self.instruction, "loss.instruction must hold {prompt}")
        for name in ("prompt_field", "completion_field"):
            require(
                self.path is not None or getattr(self, name) is None,
                f"loss.{name} needs loss.path, the file that has this field",
            )

    @property
    def alternates_request(self) -> Alternates:
        return Alternates(
            self.path,
            self.prompt_field,
            self.completion_field,
            self.instruction,
            self.alternates,
            self.temperature,
            self.max_new_tokens,
            self.seed,
        )

    def objective(self) -> "Objective":
        from mari_cli.losses.preference import preferring_alternatives

        return preferring_alternatives(self, beta=self.beta)
