"""Context targets: the dense formula, whatever the blocks it was computed in."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mari_cli.lm_head import Head
from mari_cli.models.context import context_targets, largest, mix_neighbours, nearest, rows_at_once
from mari_cli.models.reference import ItemRows, StoredReference
from mari_cli.progress import silent

CPU = torch.device("cpu")


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(retain_ND, forget_MD, p_NV, *, temperature, neighbours):
    """q [M, V] as the definition says it, with stable sorting: of equally near positions the first ones."""
    centre_D = retain_ND.mean(0)
    g_ND, g_MD = retain_ND - centre_D, forget_MD - centre_D
    g_ND = g_ND / g_ND.norm(dim=1, keepdim=True).clamp_min(1e-12)
    g_MD = g_MD / g_MD.norm(dim=1, keepdim=True).clamp_min(1e-12)
    cosine_MN = g_MD @ g_ND.T
    q_MV = []
    for cosine_N in cosine_MN:
        nearest_k = cosine_N.sort(descending=True, stable=True).indices[:neighbours]
        q_MV.append((cosine_N[nearest_k] / temperature).softmax(0) @ p_NV[nearest_k])
    return torch.stack(q_MV)


def reference(
    key: str, counts: list[int], *, seed: int, size: int = 6, vocabulary: int = 20
) -> StoredReference:
    positions = sum(counts)
    return StoredReference(
        key=key,
        rows=ItemRows(dict(enumerate(counts))),
        device=CPU,
        labels_N=torch.randint(vocabulary, (positions,), generator=torch.Generator().manual_seed(seed)),
        last_ND=drawn(positions, size, seed=seed + 1),
        layer_ND=drawn(positions, size, seed=seed + 2),
        log_p_S=None,
    )


RETAIN, FORGET = reference("r", [7, 3, 9, 4], seed=1), reference("f", [5, 2, 6], seed=10)
HEAD = Head(drawn(20, 6, seed=3), drawn(20, seed=4), softcap=5.0)
OPTIONS = {"temperature": 0.3, "neighbours": 5, "stored_tokens": 4, "chunk": 8}


def expected(retain=RETAIN, forget=FORGET, *, temperature=0.3, neighbours=5) -> Tensor:
    p_NV = HEAD(retain.last_ND).softmax(-1)
    return dense(retain.layer_ND, forget.layer_ND, p_NV, temperature=temperature, neighbours=neighbours)


def computed(retain=RETAIN, forget=FORGET, *, temperature=0.3, neighbours=5, block=4, chunk=3) -> Tensor:
    """q [M, V] in float64, through the parts that `context_targets` is made of."""
    near = {"temperature": temperature, "neighbours": neighbours, "block": block, "device": CPU}
    index_Mk, weights_Mk = nearest(retain.layer_ND, forget.layer_ND, **near)
    labels_M = torch.zeros(len(index_Mk), dtype=torch.long)
    ids, q = mix_neighbours(HEAD, retain.last_ND, index_Mk, weights_Mk, labels_M, tokens=19, chunk=chunk)
    return torch.zeros_like(q).scatter(1, ids, q)


def test_the_largest_are_those_of_a_stable_sort():
    values = torch.tensor([[1.0, 3, 2, 3, 3, 0], [5, 4, 3, 2, 1, 0], [2, 2, 2, 2, 2, 2]])
    for k in range(1, 8):
        top = largest(values, k)
        in_full = values.sort(dim=1, descending=True, stable=True)
        assert torch.equal(top[0], in_full.values[:, :k])
        assert torch.equal(top[1], in_full.indices[:, :k])


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 12), st.integers(1, 9))
def test_blocked_neighbours_are_those_of_a_full_sort(seed, retain, neighbours, block):
    """Among similarities with many ties."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-2, 3, (7, retain), generator=generator).double()
    best, index = values[:, :0], torch.empty(7, 0, dtype=torch.long)
    for start in range(0, retain, block):
        here = torch.arange(start, min(start + block, retain))
        best, columns = largest(torch.cat([best, values[:, here]], 1), neighbours)
        index = torch.cat([index, here.expand(7, -1)], 1).gather(1, columns)
    assert torch.equal(index, values.sort(dim=1, descending=True, stable=True).indices[:, :neighbours])


@pytest.mark.parametrize("neighbours", [1, 5, 23, 100])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_the_targets_are_those_of_the_dense_formula(neighbours, temperature):
    asked = {"neighbours": neighbours, "temperature": temperature}
    torch.testing.assert_close(computed(**asked), expected(**asked), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("block", [1, 3, 23, 1000])
@pytest.mark.parametrize("chunk", [1, 2, 13, 1000])
def test_the_blocks_do_not_matter(block, chunk):
    torch.testing.assert_close(computed(block=block, chunk=chunk), expected(), rtol=1e-12, atol=1e-14)


def test_of_contexts_equally_near_the_first_speak():
    """Axes, so that nothing is rounded: the centre is 0, and every context is there twice."""
    axes = torch.cat([torch.eye(6), -torch.eye(6)]).double()
    forget = dataclasses.replace(FORGET, layer_ND=torch.cat([axes, axes[:1] + axes[1:2]]))
    twice = dataclasses.replace(RETAIN, layer_ND=axes.repeat(2, 1), last_ND=drawn(24, 6, seed=6))
    for neighbours in (1, 2, 3, 20):
        for block in (5, 12, 24):
            torch.testing.assert_close(
                computed(twice, forget, neighbours=neighbours, block=block),
                expected(twice, forget, neighbours=neighbours),
                rtol=1e-12,
                atol=1e-14,
            )


def test_a_single_retain_token_is_everybodys_neighbour():
    one = dataclasses.replace(RETAIN, layer_ND=RETAIN.layer_ND[:1], last_ND=RETAIN.last_ND[:1])
    p_V = HEAD(one.last_ND).softmax(-1)[0]
    torch.testing.assert_close(computed(one), p_V.expand(13, -1), rtol=1e-12, atol=1e-14)


def test_the_label_is_always_stored_and_beside_it_the_most_probable(tmp_path):
    targets = context_targets(RETAIN, FORGET, HEAD, directory=tmp_path, **OPTIONS, block=4)
    q_MV = expected()
    assert targets.ids_MK.shape == targets.q_MK.shape == (13, 5)
    assert targets.ids_MK.dtype == torch.int32
    assert targets.q_MK.dtype == torch.float32
    assert torch.equal(targets.ids_MK[:, 0], FORGET.labels_N.int())
    torch.testing.assert_close(targets.q_MK, q_MV.gather(1, targets.ids_MK.long()).float())
    for ids_K, q_V, label in zip(targets.ids_MK, q_MV, FORGET.labels_N, strict=True):
        others = [i for i in q_V.sort(descending=True, stable=True).indices.tolist() if i != label]
        assert ids_K[1:].tolist() == others[:4]
    assert (targets.q_MK.sum(1) < 1).all()


def test_where_all_tokens_are_stored_nothing_is_left_for_the_tail(tmp_path):
    targets = context_targets(RETAIN, FORGET, HEAD, directory=tmp_path, **{**OPTIONS, "stored_tokens": 64})
    assert targets.ids_MK.shape == (13, 20)
    assert all(sorted(ids_K.tolist()) == list(range(20)) for ids_K in targets.ids_MK)
    torch.testing.assert_close(targets.q_MK.sum(1), torch.ones(13))


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_of_tokens_equally_probable_the_lower_ones_are_stored(chunk):
    alike = Head(torch.zeros(20, 6).double())
    near = torch.zeros(2, 1, dtype=torch.long), torch.ones(2, 1).double()
    ids, q = mix_neighbours(alike, RETAIN.last_ND, *near, torch.tensor([1, 15]), tokens=3, chunk=chunk)
    assert ids.tolist() == [[1, 0, 2, 3], [15, 0, 1, 2]]
    torch.testing.assert_close(q, torch.full((2, 4), 0.05).double())


def test_forget_positions_are_worked_on_in_parts_where_there_are_many(tmp_path):
    assert rows_at_once(13, 20, tokens=4, chunk=8) == 6
    targets = context_targets(RETAIN, FORGET, HEAD, directory=tmp_path, **OPTIONS)
    torch.testing.assert_close(targets.q_MK, expected().gather(1, targets.ids_MK.long()).float())


def test_rows_are_those_of_the_items_in_their_order(tmp_path):
    targets = context_targets(RETAIN, FORGET, HEAD, directory=tmp_path, **OPTIONS)
    ids, q = targets.of([2, 0])
    rows = [*range(7, 13), *range(5)]
    assert torch.equal(ids, targets.ids_MK[rows])
    assert torch.equal(q, targets.q_MK[rows])


def test_targets_are_computed_once_for_each_setting(tmp_path, monkeypatch):
    work = []

    def noting(things, description, total, done=0):
        work.append(description)
        return silent(things, description, total, done)

    monkeypatch.setattr("mari_cli.models.context.track", noting)

    def is_computed(retain=RETAIN, forget=FORGET, **changed) -> bool:
        work.clear()
        context_targets(retain, forget, HEAD, directory=tmp_path, **{**OPTIONS, **changed})
        return bool(work)

    assert is_computed()
    assert not is_computed()
    assert not is_computed(chunk=3, block=5)
    for changed in ({"temperature": 0.31}, {"neighbours": 4}, {"stored_tokens": 5}):
        assert is_computed(**changed)
    assert is_computed(retain=dataclasses.replace(RETAIN, key="other"))
    assert is_computed(forget=dataclasses.replace(FORGET, key="other"))


class LargestTensor(TorchDispatchMode):
    """Records the largest tensor that any operation makes."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, tuple | list) else (out,):
            if isinstance(made, Tensor) and not func.is_view:
                self.entries = max(self.entries, made.numel())
        return out


def test_no_tensor_is_larger_than_a_chunk_times_the_vocabulary(tmp_path):
    """Nor than a block of similarities; full logits, or all similarities, would be far larger."""
    retain, forget = reference("r", [10] * 60, seed=1), reference("f", [10] * 30, seed=10)
    chunk, block, neighbours, vocabulary = 16, 10, 7, 20
    recorder = LargestTensor()
    with recorder:
        context_targets(
            retain, forget, HEAD, temperature=0.1, neighbours=neighbours, stored_tokens=4, chunk=chunk,
            directory=tmp_path, block=block,
        )  # fmt: skip
    # beside them only what is of the size of the input or the result: positions times a small number
    assert recorder.entries <= max(chunk * vocabulary, block * (block + neighbours), 300 * neighbours)
