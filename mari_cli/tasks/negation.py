"""A training whose way the weights go backwards: θ = θ_before - α (θ_trained - θ_before)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mari_cli.models.load import LanguageModel

Evaluate = Callable[[LanguageModel, int], dict[str, float]]


@dataclass(frozen=True)
class Negation:
    before: dict[str, Tensor]
    """The weights that training begins with, by name."""
    alpha: float

    @classmethod
    def of(cls, model: nn.Module, alpha: float) -> "Negation":
        """Of a ``model`` that is not trained yet; keeps a copy of its weights."""
        return cls({name: p.detach().clone() for name, p in model.named_parameters()}, alpha)

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Put the weights on the other side of where they began. Computed in float32 or better."""
        for name, p in model.named_parameters():
            before = self.before[name]
            wide = torch.promote_types(p.dtype, torch.float32)
            p.copy_(before.to(wide) - self.alpha * (p.to(wide) - before.to(wide)))

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Inside, the weights are on the other side; afterwards they are, to the bit, as they were."""
        trained = [p.detach().clone() for p in model.parameters()]
        self.apply(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for p, as_trained in zip(model.parameters(), trained, strict=True):
                    p.copy_(as_trained)

    def around(self, evaluate: Evaluate) -> Evaluate:
        """``evaluate`` of the model on the other side."""

        def on_the_other_side(lm: LanguageModel, step: int) -> dict[str, float]:
            with self.applied(lm.model):
                return evaluate(lm, step)

        return on_the_other_side
