"""Compiled or by strips a function of a chunk is what is written there, and holds no second chunk."""

import re
import shutil

import pytest
import torch
import torch._inductor.ir
from engine_cases import gap, randn
from torch._dynamo.utils import counters
from torch._inductor.utils import run_and_get_code

from mari_cli.losses import fused
from mari_cli.losses.readings import KL, Anchor, LogP, ReverseKL

V = 37
ROWS = 3 * fused.STRIP + 5


def arguments(rows: int, dtype: torch.dtype) -> dict[str, tuple[fused.Body, list[torch.Tensor | None]]]:
    """Every function with every combination of arguments that the engine has for it."""
    logits, others = (3 * randn(rows, V, seed=seed, dtype=dtype) for seed in (0, 1))
    labels = torch.randint(V, (rows,), generator=torch.Generator().manual_seed(2))
    factor, weight = randn(rows, seed=3, dtype=dtype), randn(rows, seed=4, dtype=dtype).abs()
    p, normaliser = logits.softmax(-1), others.logsumexp(-1)
    one, many = randn(1, V, seed=5, dtype=dtype).expand(rows, V), randn(rows, V, seed=6, dtype=dtype)
    nothing, beside = (labels, None, None), (labels, others, normaliser)
    of_one = weight, randn(rows, seed=7, dtype=dtype).abs()

    def gradient(*readings):
        return fused.gradient_(tuple(reading("retain") for reading in readings))

    def predict(*readings):
        return fused.predict_(tuple(reading("retain") for reading in readings))

    return {
        "label_log_p": (fused.label_log_p, [logits, labels]),
        "predict_": (predict(LogP), [logits, labels, None]),
        "predict_beside_": (predict(KL), [logits, labels, others]),
        "summed_predictions": (fused.summed_predictions, [logits]),
        "reverse_kl": (fused.read((ReverseKL("retain"),)), [logits, labels, others]),
        "anchor": (fused.read((Anchor("retain"),)), [logits, labels, others]),
        "gradient_ of labels": (gradient(LogP), [p, factor, None, *nothing, *of_one]),
        "gradient_ of a divergence": (gradient(KL), [p, factor, None, *beside, *of_one]),
        "gradient_ of the reverse": (gradient(ReverseKL), [p, factor, None, *beside, *of_one]),
        "gradient_ of an anchor": (gradient(KL, Anchor), [p, factor, one, *beside, *of_one, *of_one]),
        "gradient_ of one pool": (gradient(), [p, factor, one, *nothing]),
        "gradient_ of the paper": (gradient(ReverseKL), [p, factor, one, *beside, *of_one]),
        "gradient_ of all": (gradient(KL, Anchor), [p, factor, many, *beside, *of_one, *of_one]),
    }


NAMES = list(arguments(2, torch.float64))


def copied(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """The γ of one pool is one row for all, also as a copy."""
    if tensor is None or 0 not in tensor.stride():
        return tensor if tensor is None else tensor.clone()
    return tensor[:1].clone().expand_as(tensor)


def everything(kernel: fused.Body, tensors: list[torch.Tensor | None]) -> dict[str, torch.Tensor]:
    """Results and, overwritten or not, arguments, by number."""
    own = [copied(x) for x in tensors]
    results = kernel(*own)
    found = {f"result {i}": x for i, x in enumerate(results)}
    return found | {f"argument {i}": x for i, x in enumerate(own) if x is not None}


def added_up(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return found | {"result 0": found["result 0"].sum(0, keepdim=True)}


@pytest.mark.parametrize("rows", [0, 1, fused.STRIP, ROWS])
@pytest.mark.parametrize("name", NAMES)
def test_by_strips_a_function_is_the_same(name, rows):
    body, tensors = arguments(rows, torch.float64)[name]
    found, expected = everything(fused.by_strips(body), tensors), everything(body, tensors)
    if body is fused.summed_predictions:  # a sum for each strip
        found = added_up(found)
    assert gap(found, expected) < 1e-14


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("name", NAMES)
def test_compiled_a_function_is_the_same_in_the_same_memory_for_any_number_of_rows(
    name, dtype, tolerance, monkeypatch
):
    """For a CPU, but for which results are put into memory, which is decided as it is for CUDA."""
    monkeypatch.setattr(torch._inductor.ir, "is_cpu", lambda node: False)
    body, tensors = arguments(ROWS, dtype)[name]
    kernel = fused.compiled(body)
    # loops of one number at a time: to find the vectors of this CPU takes five compilations
    scalar = {"force_disable_caches": True, "cpp.vec_isa_ok": False}
    with torch._inductor.config.patch(scalar):
        found, (code,) = run_and_get_code(lambda: everything(kernel, tensors))
    assert gap(found, everything(body, tensors)) < tolerance
    assert not re.search(rf"empty_strided_cpu\(\(s\d+, {V}\)", code)

    graphs = counters["stats"]["unique_graphs"]
    body, tensors = arguments(ROWS + 11, dtype)[name]
    assert gap(everything(kernel, tensors), everything(body, tensors)) < tolerance
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_on_a_gpu_it_is_compiled_and_is_the_same_in_the_same_memory(name):
    assert fused.obstacle("cuda") is None
    rows, columns = 256, 1000
    body, tensors = arguments(rows, torch.float32)[name]
    wide = [x if x is None or x.dim() == 1 else x.repeat(1, columns) for x in tensors]
    exact = everything(body, [x if x is None or not x.is_floating_point() else x.double() for x in wide])
    on_gpu = [x if x is None else x.cuda() for x in wide]
    if name == "gradient_ of one pool":
        on_gpu[2] = on_gpu[2][:1].expand_as(on_gpu[2])
    fused.over_chunk(body, *map(copied, on_gpu))  # compiles
    own = [copied(x) for x in on_gpu]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = fused.over_chunk(body, *own)
    assert torch.cuda.max_memory_allocated() - before < rows * V * columns  # a quarter of one such tensor
    found = {f"result {i}": x.cpu() for i, x in enumerate(results)}
    found |= {f"argument {i}": x.cpu() for i, x in enumerate(own) if x is not None}
    assert gap(found, exact) < 1e-5


def test_on_a_cpu_nothing_is_compiled():
    assert fused.obstacle("cpu")
    body, tensors = arguments(ROWS, torch.float64)["predict_beside_"]
    graphs = counters["stats"]["unique_graphs"]
    everything(lambda *x: fused.over_chunk(body, *x), tensors)
    assert counters["stats"]["unique_graphs"] == graphs
