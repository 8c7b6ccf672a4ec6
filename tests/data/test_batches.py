"""Which items a step sees, and what the rectangle holds."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from labels import IGNORE, labels_of

from mari_cli.data.batches import collate, draw, drawn_indices, epoch_batches
from mari_cli.data.tokenize import Item


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 99))
def test_every_item_is_drawn_once_before_any_is_drawn_twice(size, batch, seed):
    batch = min(batch, size)
    steps = -(-3 * size // batch)
    stream = [i for step in range(steps) for i in draw(size, batch, step, seed=seed)]
    for start in range(0, 3 * size, size):
        assert sorted(stream[start : start + size]) == list(range(size))


def test_a_step_is_drawn_the_same_whether_or_not_the_others_were():
    assert draw(10, 4, 7, seed=1) == [draw(10, 4, step, seed=1) for step in range(8)][7]


def test_epochs_and_seeds_differ():
    assert draw(50, 50, 0, seed=1) != draw(50, 50, 1, seed=1)
    assert draw(50, 50, 0, seed=1) != draw(50, 50, 0, seed=2)


def test_a_fine_tuning_epoch_covers_all_in_batches_of_like_length():
    lengths = torch.randint(5, 100, (203,), generator=torch.Generator().manual_seed(0)).tolist()
    batches = epoch_batches(lengths, 8, 0, seed=3)
    assert sorted(i for batch in batches for i in batch) == list(range(203))
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)
    assert batches != epoch_batches(lengths, 8, 1, seed=3)


def test_labels_are_the_next_tokens_of_the_completion_and_nothing_else():
    batch = collate([Item((5, 6, 7, 8), 2, 0), Item((5, 6, 7, 8, 9, 1), 4, 1)])
    assert labels_of(batch).tolist() == [
        [IGNORE, 7, 8, IGNORE, IGNORE, IGNORE],
        [IGNORE, IGNORE, IGNORE, 9, 1, IGNORE],
    ]


@pytest.mark.parametrize("eos", [0, 1])
def test_a_real_eos_is_supervised_even_where_it_is_the_padding_token(eos):
    batch = collate([Item((5, 6, eos), 1, 0), Item((5, 6, 7, 8, eos), 1, 1)])
    assert labels_of(batch)[0].tolist() == [6, eos, IGNORE, IGNORE, IGNORE]


def test_the_stream_wraps_inside_a_batch_without_losing_an_item():
    batches = [draw(5, 3, step, seed=0) for step in range(10)]
    assert all(len(batch) == 3 for batch in batches)
    flat = [i for batch in batches for i in batch]
    assert all(sorted(flat[a:b]) == list(range(5)) for a, b in pairwise(range(0, 31, 5)))


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 20), st.integers(0, 99))
def test_drawn_indices_are_those_that_all_steps_draw(size, batch, steps, seed):
    batch = min(batch, size)
    drawn = {i for step in range(steps) for i in draw(size, batch, step, seed=seed)}
    assert drawn_indices(size, batch, steps, seed=seed) == sorted(drawn)


# -- layouts -------------------------------------------------------------------------------------------------


@st.composite
def some_items(draw_from) -> list[Item]:
    sizes = draw_from(st.lists(st.integers(2, 12), min_size=1, max_size=9))
    return [
        Item(tuple(range(100 * i, 100 * i + size)), draw_from(st.integers(1, size - 1)), i)
        for i, size in enumerate(sizes)
    ]


@given(some_items(), st.booleans())
def test_the_rows_asked_for_stand_before_their_targets_item_by_item(items, packed):
    batch = collate(items, packed=packed)
    targets = [token for item in items for token in item.input_ids[item.supervised_from :]]
    assert batch.labels_N.tolist() == targets
    assert batch.counts == tuple(item.num_targets for item in items)
    assert (batch.input_ids_BT.flatten()[batch.rows_N] + 1).tolist() == targets
    assert labels_of(batch).flatten()[batch.rows_N].tolist() == targets
    assert int((labels_of(batch) != IGNORE).sum()) == len(targets)


@given(some_items())
def test_a_packed_row_holds_every_item_whole_and_counts_its_positions_from_nothing(items):
    batch = collate(items, packed=True)
    documents = batch.documents
    assert documents
    assert batch.input_ids_BT.shape == documents.position_ids_BT.shape == (1, batch.tokens)
    ids, positions = batch.input_ids_BT[0].tolist(), documents.position_ids_BT[0].tolist()
    parts = [tuple(ids[a:b]) for a, b in pairwise(documents.boundaries.tolist())]
    assert sorted(parts) == sorted(item.input_ids for item in items)
    assert tuple(len(part) for part in parts) == documents.lengths == tuple(sorted(documents.lengths))
    assert positions == [position for length in documents.lengths for position in range(length)]
    assert documents.boundaries.dtype == torch.int32


def test_packed_there_is_no_padding_where_a_rectangle_of_answers_would_hold_a_third():
    """Lengths as those of 16 questions about authors with their answers, drawn at random."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(25, 140, (16,), generator=generator).tolist()
    items = [Item((1,) * size, 5, i) for i, size in enumerate(sizes)]

    def padding(batch):
        return 1 - batch.tokens / batch.input_ids_BT.numel()

    assert padding(collate(items, packed=True)) <= 0.02
    assert padding(collate(items)) > 0.3
    assert padding(collate([Item((1, 2), 1, 0), Item((1, 2, 3, 4), 1, 1)])) == 0.25
