"""Rounding to NF4 through bitsandbytes, where it is; elsewhere the row is left out, and the card says why."""

import importlib.util
import sys
from importlib.metadata import version

import pytest
import torch

from mari_cli.audit import quantisation
from mari_cli.audit.attack import mean
from mari_cli.audit.quantisation import NF4_BLOCK, QUANTISATION, nf4_weights
from mari_cli.config import AuditConfig, QuantisationConfig

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="needs bitsandbytes: pip install 'mari-cli[nf4]'",
)
NEGATIVE = (-1, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500)
POSITIVE = (0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1)
VALUES = torch.tensor([*NEGATIVE, 0, *POSITIVE])
"""Quantiles of the normal distribution (QLoRA, appendix E)."""


def planned(world, **settings):
    config = AuditConfig(quantisation=QuantisationConfig(**settings))
    cases, notes = QUANTISATION.cases(config, world.evidence)
    return [case.name for case in cases], notes


def test_where_the_library_is_not_the_row_is_left_out_with_its_reason(world, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as Python marks what is not there
    names, notes = planned(world)
    assert names == ["int8", "int4"]
    why = "bitsandbytes is not installed (`pip install 'mari-cli[nf4]'`)"
    assert notes == [f"NF4 is left out of the quantisation: {why}"]
    assert planned(world, nf4=False) == (["int8", "int4"], [])


@pytest.mark.parametrize("error", [RuntimeError("no kernel\nfor this"), AttributeError("no kernel")])
def test_where_the_library_cannot_round_the_row_is_left_out_with_its_reason(world, monkeypatch, error):
    def refuse(weight):
        raise error

    monkeypatch.setattr(quantisation.importlib.util, "find_spec", lambda name: "there")
    monkeypatch.setattr(quantisation, "version", lambda name: "0.40")
    monkeypatch.setattr(quantisation, "nf4_weights", refuse)
    why = "bitsandbytes 0.40 cannot round on cpu here: no kernel"
    assert planned(world) == (["int8", "int4"], [f"NF4 is left out of the quantisation: {why}"])


@needs_bitsandbytes
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_weights_are_the_nearest_of_16_values_times_the_largest_of_their_block(device):
    weight = torch.randn(6, 130, generator=torch.Generator().manual_seed(0))
    found = nf4_weights(weight.to(device)).cpu().flatten()
    for start in range(0, weight.numel(), NF4_BLOCK):
        block = weight.flatten()[start : start + NF4_BLOCK]
        scale = block.abs().max()
        nearest = VALUES[(block[:, None] / scale - VALUES).abs().argmin(1)] * scale
        assert torch.allclose(found[start : start + NF4_BLOCK], nearest, atol=1e-5)


@needs_bitsandbytes
def test_the_model_before_still_knows_in_four_bits_and_gold_does_not(world):
    config = AuditConfig(quantisation=QuantisationConfig(bits=[]))
    (case,), notes = QUANTISATION.cases(config, world.evidence)
    assert (case.full_name, notes) == ("quantisation/nf4", [])
    assert case.settings["bitsandbytes"] == version("bitsandbytes"), "it is in the key of what is kept"
    before = {name: world.models[name].model.state_dict() for name in ("before", "gold")}
    kept = {name: {k: v.clone() for k, v in state.items()} for name, state in before.items()}
    recall = {
        name: mean(QUANTISATION.run(world.models[name], case, world.evidence).values) for name in before
    }
    assert recall["before"] > 0.8 > 0.1 > recall["gold"]
    assert all(kept[name][k].equal(v) for name, state in before.items() for k, v in state.items())
