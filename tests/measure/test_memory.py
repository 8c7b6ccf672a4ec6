"""What a tracker counts: every storage once, from its first operator to its end."""

import torch

from mari_cli.measure import fake
from mari_cli.measure.memory import MemoryTracker

KB = 1024


def block() -> torch.Tensor:
    return torch.zeros(KB // 4)


def test_the_peak_is_what_was_alive_at_one_time():
    with MemoryTracker() as tracker:
        a = block()
        b = a + 1
        del a
        c = b + 1
        del b, c
    assert (tracker.peak, tracker.total) == (2 * KB, 0)


def test_a_view_and_an_operation_in_place_take_nothing():
    with MemoryTracker() as tracker:
        a = block()
        a.view(2, -1)[0].add_(1)
    assert tracker.peak == KB


def test_what_is_only_saved_for_the_way_back_counts_as_well():
    with MemoryTracker() as tracker:
        a = block().requires_grad_()
        out = a.exp().sin().sum()  # the exponential is kept for the cosine
        assert tracker.total == 2 * KB + 4
        out.backward()
    assert tracker.total == 2 * KB + 4  # the exponential is gone, a gradient has come


def test_bytes_belong_to_the_part_they_were_made_for_or_given_to():
    before = block()
    with MemoryTracker() as tracker:
        tracker.watch([before], "weights")
        with tracker.during("loss"):
            a = block()
        b = block()
        tracker.watch([b], "gradients")
    assert {part: size for part, size in tracker.at_peak.items() if size} == {
        "weights": KB,
        "loss": KB,
        "other": KB,
    }
    assert (tracker.now["gradients"], tracker.now["other"]) == (KB, 0)
    del a


def test_a_logsumexp_takes_room_for_its_exponentials():
    with MemoryTracker() as tracker:
        block().logsumexp(0)
    assert tracker.peak == 2 * KB


def test_products_are_counted_whether_or_not_torch_counts_them():
    a, b, vector = torch.rand(3, 5), torch.rand(5, 7), torch.rand(5)
    heads = torch.rand(2, 4, 6, 8)  # sequences, heads, tokens, size
    for work, expected in (
        (lambda: a @ b, 2 * 3 * 5 * 7),
        (lambda: torch.zeros(3, 7).addmm_(a, b), 2 * 3 * 5 * 7),
        (lambda: a @ vector, 2 * 3 * 5),
        (lambda: torch.bmm(torch.rand(4, 3, 5), torch.rand(4, 5, 7)), 4 * 2 * 3 * 5 * 7),
        (
            lambda: torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True),
            2 * 2 * (2 * 4 * 6 * 6 * 8),
        ),
        (lambda: a.exp() + 1, 0),
    ):
        with MemoryTracker() as tracker:
            work()
        assert tracker.flops == expected


def test_a_fake_model_costs_what_the_real_one_costs():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.GELU(), torch.nn.Linear(32, 4))
    world = fake.mode()
    counted = []
    for network, h_ND in (
        (model, torch.rand(16, 8)),
        (fake.twin(model, world), fake.empty((16, 8), torch.float32, world)),
    ):
        with MemoryTracker() as tracker:
            network(h_ND).logsumexp(-1).sum().backward()
        counted.append((tracker.peak, tracker.total, tracker.flops))
    assert counted[0] == counted[1]


def test_a_twin_shares_what_the_model_shares_and_holds_no_content():
    model = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Linear(4, 10, bias=False))
    model[1].weight = model[0].weight
    model[0].weight.requires_grad_(False)
    with torch.device("meta"):
        blank = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Linear(4, 10, bias=False))
    for original in (model, blank):
        twin = fake.twin(original, fake.mode())
        assert (twin[0].weight is twin[1].weight) is (original is model)
        assert twin[0].weight.requires_grad is original[0].weight.requires_grad
        assert twin[0].weight.device.type == "cpu"
        assert type(twin[0].weight).__name__ == "FakeTensor"
