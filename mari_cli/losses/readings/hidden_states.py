"""The hidden states of a layer, which a loss may compare with the reference's or steer."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mari_cli.losses.readings.reading import OfStates
from mari_cli.losses.step import Rows, Step


@dataclass(frozen=True)
class HiddenStates(OfStates):
    """Hidden states [N, D], in float32 or better. ``layer``: 0 is the embeddings, None the middle layer."""

    layer: int | None = None

    def shape(self, rows: Mapping[str, Rows], step: Step) -> tuple[int, ...] | None:
        return tuple(self._states(rows[self.role]).shape) if self.role in rows else None

    def value(self, rows: Rows) -> Tensor:
        states_ND = self._states(rows)
        return states_ND.to(torch.promote_types(states_ND.dtype, torch.float32))

    def _states(self, rows: Rows) -> Tensor:
        assert rows.layer_ND is not None
        return rows.layer_ND.detach()
