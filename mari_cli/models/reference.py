"""The reference: outputs of the model before step 1 that a loss needs, computed once and kept on disk.

One forward pass over each item that will be drawn replaces a second model in memory and a second forward pass
in every step. Shapes: N supervised positions, D hidden size, S items.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from mari_cli.data.batches import length_sorted
from mari_cli.data.tokenize import Item
from mari_cli.models.backbone import hidden_states
from mari_cli.models.fingerprint import cache_key, described
from mari_cli.models.load import LanguageModel
from mari_cli.progress import track
from mari_cli.storage import hashing
from mari_cli.storage.hashing import key_hash
from mari_cli.storage.tensor_cache import TensorSpec, cache_tensors
from mari_cli.transfer import sent

DEFINITION = 2
"""The version in every cache key. Raise DEFINITION when a change here or in the backbone changes a value."""


@dataclass(frozen=True)
class ItemRows:
    """The rows of each item in a tensor: items in the order of their indices, one row for each target."""

    counts: Mapping[int, int]
    """The number of rows by the index of the item."""

    @cached_property
    def slices(self) -> dict[int, slice]:
        ends = list(accumulate(self.counts.values()))
        return {i: slice(end - count, end) for (i, count), end in zip(self.counts.items(), ends, strict=True)}

    @cached_property
    def places(self) -> dict[int, int]:
        return {i: place for place, i in enumerate(self.counts)}

    def gather(self, tensor: Tensor, items: Sequence[int], device: torch.device) -> Tensor:
        """The rows of ``items``, in their order, on ``device``."""
        return sent(torch.cat([tensor[self.slices[i]] for i in items]), device)


@dataclass(frozen=True)
class StoredReference:
    """The reference of one corpus, memory-mapped on the CPU. A tensor that no loss needs is None."""

    key: str
    """Content hash of everything that determines the tensors."""
    rows: ItemRows
    device: torch.device
    """The device on which the methods return tensors."""
    labels_N: Tensor
    last_ND: Tensor | None
    """Hidden states after the final norm, in 16 bits where the backbone computes in 16 bits, because the head
    would round the states to 16 bits."""
    layer_ND: Tensor | None
    """Hidden states of the layer that defines contexts; bfloat16 where the backbone computes in 16 bits,
    because the largest states of some layers exceed float16."""
    log_p_S: Tensor | None
    """log p(completion | prompt) of each item, in nats, float64."""

    def states(self, items: Sequence[int]) -> Tensor:
        """Hidden states after the final norm [sum n_i, D], item by item in the order of ``items``."""
        assert self.last_ND is not None
        return self.rows.gather(self.last_ND, items, self.device)

    def layer(self, items: Sequence[int]) -> Tensor:
        """Hidden states of the layer that defines contexts [sum n_i, D]."""
        assert self.layer_ND is not None
        return self.rows.gather(self.layer_ND, items, self.device)

    def log_p(self, items: Sequence[int]) -> Tensor:
        """Log-probability of each item [S], float64."""
        assert self.log_p_S is not None
        places = [self.rows.places[i] for i in items]
        return sent(self.log_p_S[places], self.device)


def store_reference(
    lm: LanguageModel,
    items: Sequence[Item],
    wanted: Collection[int] | None,
    *,
    states: bool,
    layer: int | None,
    log_probability: Callable[[Tensor, Tensor], Tensor] | None,
    directory: Path,
    weights: str,
    batch_size: int,
    name: str,
) -> StoredReference:
    """Read the reference from the cache in ``directory``, or compute it with ``lm`` as it is now.

    The reference covers the items with indices ``wanted`` (None: all): ``states`` after the final norm, those
    of ``layer`` (0: the embeddings), and the sum over each item of ``log_probability``, a function of states
    [N, D] and labels [N]. ``weights`` is the hash of ``lm``'s weights; ``name`` is the corpus, for messages.
    """
    indices = sorted(range(len(items)) if wanted is None else set(wanted))
    rows = ItemRows({i: items[i].num_targets for i in indices})
    labels_N = torch.tensor([token for i in indices for token in items[i].labels])
    last_dtype, layer_dtype = _dtypes(lm)
    parts: dict[str, TensorSpec] = {}
    if states:
        width = lm.model.get_output_embeddings().weight.shape[1]
        parts["last"] = TensorSpec((len(labels_N), width), last_dtype)
    if layer is not None:
        width = lm.model.config.get_text_config().hidden_size
        parts["layer"] = TensorSpec((len(labels_N), width), layer_dtype)
    if log_probability is not None:
        parts["log_p"] = TensorSpec((len(indices),), torch.float64)
    asked = {
        "items": hashing.content_hash([[i, *_key_of(items[i])] for i in indices]),
        "parts": sorted(parts),
        "layer": layer,
        "dtype": str(last_dtype),
    }
    key = cache_key("reference", DEFINITION, described(lm, weights), asked)

    @torch.no_grad()
    def fill(tensors: Mapping[str, Tensor]) -> None:
        batches = list(length_sorted([len(items[i].input_ids) for i in indices], batch_size))
        lm.model.eval()
        for batch in track(batches, f"reference on {name}", len(batches)):
            drawn = [indices[place] for place in batch]
            h_ND, layer_ND = hidden_states(
                lm.model, lm.compute, [items[i] for i in drawn], packed=lm.layout.packed, layer=layer
            )
            counts = [rows.counts[i] for i in drawn]
            by_part = {"last": h_ND, "layer": layer_ND}
            for part in parts.keys() & by_part.keys():
                states_ND = by_part[part]
                assert states_ND is not None
                for i, states_nD in zip(
                    drawn, states_ND.to(parts[part].dtype).cpu().split(counts), strict=True
                ):
                    tensors[part][rows.slices[i]] = states_nD
            if log_probability is not None:
                of_batch_N = torch.cat([labels_N[rows.slices[i]] for i in drawn]).to(h_ND.device)
                log_p_N = log_probability(h_ND, of_batch_N).double().cpu()
                tensors["log_p"][batch] = torch.stack([log_p_n.sum() for log_p_n in log_p_N.split(counts)])

    tensors = cache_tensors(directory / "reference", key, parts, fill, name=f"reference on {name}")
    return StoredReference(
        key=key_hash(key),
        rows=rows,
        device=lm.device,
        labels_N=labels_N,
        last_ND=tensors.get("last"),
        layer_ND=tensors.get("layer"),
        log_p_S=tensors.get("log_p"),
    )


def _dtypes(lm: LanguageModel) -> tuple[torch.dtype, torch.dtype]:
    """The types in which states after the final norm and states of a layer are kept."""
    if lm.compute.dtype.itemsize == 2:
        return lm.compute.dtype, torch.bfloat16
    full = torch.promote_types(next(lm.model.parameters()).dtype, torch.float32)
    return full, full


def _key_of(item: Item) -> list[object]:
    """The parts of ``item`` that determine a model's output."""
    tokens: list[object] = [item.input_ids, item.supervised_from]
    return tokens if item.wanted is None else [*tokens, item.wanted]
