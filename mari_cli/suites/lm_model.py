"""A language model in memory with lm_eval's interface.

Shapes: B sequences, T tokens, V vocabulary.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from lm_eval.api.model import CacheHook
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from mari_cli.errors import UserError
from mari_cli.lm_head import head_of
from mari_cli.models.backbone import run_backbone
from mari_cli.models.load import LanguageModel
from mari_cli.models.speaking import greedily, stops

CPU_BYTES = 2**30
"""Memory for the logits of one forward pass on a CPU."""
CUDA_SHARE = 4
"""The divisor of the device's memory that gives the same on CUDA."""

T = TypeVar("T")


class InMemory(HFLM):  # type: ignore[misc]
    """In float32 it computes what lm_eval's own `hf` model does. In 16 bits the head stays in float32,
    because rounded logits would often tie answers, and lm_eval would choose the first of them.

    As in lm_eval a context may be as long as the model allows; `model.max_length` is for training. lm_eval
    holds the logits of whole contexts and their logarithms. A forward pass takes as many sequences as memory
    allows, at most ``batch_size``, and half as many after each out-of-memory error.
    """

    def __init__(self, lm: LanguageModel, *, batch_size: int) -> None:
        self.lm = lm
        self.narrow = lm.compute.dtype != torch.float32
        super().__init__(
            pretrained=lm.model,
            tokenizer=_chatting_alike(lm),
            chat_template_args=dict(lm.style.arguments),
            batch_size=batch_size,
            mixed_precision_dtype=lm.compute.dtype if self.narrow else None,
        )
        self.most = batch_size
        self.progress: Callable[[float], None] = lambda done: None
        """Called with the answered share of the requests."""
        self.windows: _Counter | None = None
        """Counts windows of running text, because lm_eval reports documents only at the end."""

    @torch.no_grad()
    def _model_call(
        self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """Logits [B, T, V]."""
        if not (self.narrow or self.lm.in_shards):
            logits_BTV: Tensor = super()._model_call(inps, attn_mask, labels)
            return logits_BTV
        with self.lm.compute.autocast():
            h_BTD, _ = run_backbone(self.lm.model, inps)
        logits_NV = head_of(self.lm.model)(h_BTD.flatten(0, 1))
        return logits_NV.view(*inps.shape, -1)

    # -- requests --------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        self._watch(len(requests))
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[float]:
        self.set_cache_hook(CacheHook(None))
        lengths = [len(self.tok_encode(request.args[0])) for request in requests]
        self.windows = _Counter(sum(-(-length // self.max_length) for length in lengths), self.progress)
        self.batch_size_per_gpu = self._largest_batch(min(max(lengths), self.max_length))
        answers: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=True)
        self.windows = None
        return answers

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        self._watch(len(requests))
        self.batch_size_per_gpu = self.most
        ask = super().generate_until
        model, tokenizer = self.lm.model, self.lm.tokenizer
        with greedily(model, tokenizer, stops(model, tokenizer)):  # a task's own settings take precedence
            answers: list[str] = self._halving(lambda: ask(requests, disable_tqdm=True))
        return answers

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        longest = max(len(context) + len(continuation) for _, context, continuation in requests)
        self.batch_size_per_gpu = self._largest_batch(min(longest, self.max_length))
        ask = super()._loglikelihood_tokens
        answers: list[tuple[float, bool]] = self._halving(
            lambda: ask(requests, disable_tqdm=True, override_bs=override_bs)
        )
        if self.windows:
            self.windows.count(len(requests))
        return answers

    def _watch(self, total: int) -> None:
        self.set_cache_hook(_Counter(total, self.progress))

    # -- memory ----------------------------------------------------------------------------------------------

    def _largest_batch(self, tokens: int) -> int:
        """Sequences of ``tokens`` tokens per forward pass."""
        vocabulary: int = self.model.config.get_text_config().vocab_size
        room = CPU_BYTES
        if self.device.type == "cuda":
            room = torch.cuda.get_device_properties(self.device).total_memory // CUDA_SHARE
        logits_and_logarithms = 2 * 4 * tokens * vocabulary
        return max(1, min(self.most, int(room // logits_and_logarithms)))

    def _halving(self, ask: Callable[[], T]) -> T:
        while True:
            try:
                return ask()
            except torch.OutOfMemoryError as error:
                if self.batch_size_per_gpu == 1:
                    raise UserError(
                        "out of memory with a single sequence of a benchmark",
                        "fewer examples before a question (`metrics.fewshot`) make it shorter",
                    ) from error
            self.most = self.batch_size_per_gpu = self.batch_size_per_gpu // 2
            torch.cuda.empty_cache()


def _chatting_alike(lm: LanguageModel) -> Any:
    """A copy of the tokenizer: lm_eval adds a missing padding token to it, and its chat template has the
    fixed date that this project uses everywhere."""
    tokenizer = copy.deepcopy(lm.tokenizer)
    if tokenizer.chat_template is not None:
        tokenizer.chat_template = lm.style.chat_of(tokenizer).template
    return tokenizer


class _Counter(CacheHook):  # type: ignore[misc]
    """lm_eval's cache hook, called for each answer; here it counts the answers."""

    def __init__(self, total: int, progress: Callable[[float], None]) -> None:
        super().__init__(None)
        self.total, self.progress, self.done = total, progress, 0

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        self.count(1)

    def count(self, answers: int) -> None:
        self.done += answers
        self.progress(min(1.0, self.done / self.total))
