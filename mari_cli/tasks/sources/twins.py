"""Twins: q is what the model before step 1 says where retain names replace those of the forget data.

The formula, and how a twin is asked: mari_cli/supports/twins.py. Here: which names there are, and how the
holdout chooses what q leaves open.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from mari_cli.config import UnlearnRun
from mari_cli.data.spans import locate
from mari_cli.data.tokenize import Item
from mari_cli.errors import UserError, counted
from mari_cli.losses.support import SupportConfig
from mari_cli.models.context import Targets
from mari_cli.models.fingerprint import weights_hash
from mari_cli.storage import hashing
from mari_cli.supports import twins
from mari_cli.supports.calibrate import LEAST_POWER, MOST_POWER, CalibratedTwice, Second, calibrated_twice
from mari_cli.supports.keys import find_keys, given_keys, read_keys
from mari_cli.supports.sparse import Kept, Mistakes, mistakes_of
from mari_cli.supports.twins import Names, Way
from mari_cli.tasks.setting import seed_for
from mari_cli.tasks.sources.asking import (
    Asking,
    Unseen,
    calibrate_by_holdout,
    make_targets,
    of_calibration,
    tell,
)
from mari_cli.tasks.sources.prepared import Prepared, Preparing, asked_of
from mari_cli.tasks.sources.source import SourceCost

MOST_CONTRAST = 64.0
DRAWN_TOKENS = 64
"""Tokens of the tail that are stored at a forget position, so that a power or a contrast of it is known."""
SHARES = [step / 10 for step in range(11)]
BETWEEN = 9
"""Where a calibration looks."""


def ways_of(config: SupportConfig, forget: Sequence[Item]) -> list[Way]:
    """How twins of ``forget`` are asked. Running text has no answers: its twins are plain, unless `generated`
    says otherwise."""
    if config.generated is None and all(item.supervised_from == 1 for item in forget):
        return [Way.plain]
    return [way for way, absent in ((Way.plain, 1), (Way.generated, 0)) if config.generated != absent]


def prepare(here: Preparing, known: Prepared) -> Prepared:
    """Raises UserError where the forget data has no key strings, or the retain data no names for them."""
    located = {
        role: locate(here.corpora[role].records, here.corpora[role].items, here.setting.tokenizer, here.style)
        for role in ("forget", "retain")
    }
    items, config = here.corpora["forget"].items, known.config
    if config.keys is not None:
        keys = given_keys(read_keys(config.keys), **located, path=config.keys)
    else:
        starts = [item.supervised_from for item in items]
        keys = find_keys(located["forget"], located["retain"], starts, least=config.key_records)
    named = [
        twins.name_tokens(item, of_item, tokens)
        for item, of_item, tokens in zip(items, located["forget"], keys.tokens, strict=True)
    ]
    if not any(one.keys for one in named):
        raise UserError(
            f"the key strings in `loss.support.keys={config.keys}` hold no letter or digit, so nothing can "
            "be swapped",
            "write names, one a line; null finds key strings by counts",
        )
    pools = twins.name_pools(located["retain"], here.corpora["retain"].items)
    named = [twins.of_swappable(one, pools) for one in named]
    if not any(one.keys for one in named):
        raise UserError(
            "the retain corpus holds no word to swap a key string for but words of the forget record itself",
            "give more retain records (`retain.path`), or take another source (`loss=mari_base`, "
            "`loss=mari_context`)",
        )
    names = Names(keys, named, pools)
    return replace(known, names=names, notes=(_describe_keys(names),))


def make(asking: Asking) -> tuple[Targets, list[str]]:
    config, names = asking.prepared.config, asking.prepared.names
    assert names is not None
    lm = asking.load(asking.target)
    weights = weights_hash(lm.model)
    before = asking.of(lm, "forget", weights=weights)
    vocabulary = len(before.head.weight_VD)
    seed, ways = seed_for(asking.config.seed, "twins"), ways_of(config, asking.forget)
    key = {
        "model": before.remembered.key,
        "named": hashing.content_hash([sorted(one.keys.items()) for one in names.named]),
        "pools": hashing.content_hash(names.pools),
        "twins": config.twins,
        "asked": twins.DEFINITION,
        "seed": seed,
    }
    fill = partial(
        twins.ask_twins,
        lm,
        before.head,
        before.remembered,
        names.named,
        names.pools,
        twins=config.twins,
        ways=ways,
        seed=seed,
        chunk=asking.chunk(vocabulary),
        batch_size=asking.config.metrics.batch_size,
    )
    said = asking.keep(fill, [*ways, "before"], before.remembered, key, vocabulary, drawn_tokens=DRAWN_TOKENS)
    unseen, notes = asking.unseen(lm, weights)
    del lm, fill
    generated = config.generated if len(ways) > 1 else float(ways == [Way.generated])
    if generated is None or config.contrast is None:
        (generated, contrast, power), note = _choose(asking, said, unseen, generated)
        notes += tell(note)
    else:
        contrast, power = config.contrast, config.sharpen or 1.0
        if config.difficulty and not config.quantiles:
            notes += tell("support: difficulty changes nothing, for the holdout chooses nothing here")
    supported = partial(twins.combined, generated=generated, contrast=contrast, power=power)
    settings = {"generated": generated, "contrast": contrast, "power": power, "combined": twins.COMBINED}
    return make_targets(asking, said, unseen, notes, supported, **settings)


def _choose(
    asking: Asking, said: Kept, unseen: Unseen, generated: float | None
) -> tuple[tuple[float, float, float], str]:
    """Generated share, contrast and power, what has no value of them chosen by the holdout; and a note."""
    config = asking.prepared.config
    contrast, power = config.contrast, config.sharpen
    shares = SHARES if generated is None else [generated]

    def mistaken(share: float, contrast: float, power: float) -> Mistakes:
        q = partial(twins.combined, generated=share, contrast=contrast, power=power)
        return mistakes_of(said, q, floor=config.floor, harder=unseen.harder)

    seconds = {
        "contrast": Second(
            lambda share, value: mistaken(share, (contrast or 0.0) + value, power or 1.0),
            least=0.0,
            most=MOST_CONTRAST if contrast is None else 0.0,
        )
    }
    if contrast is None and power is None:
        seconds["power"] = Second(
            lambda share, value: mistaken(share, 0.0, value),
            least=LEAST_POWER,
            most=MOST_POWER,
            between=BETWEEN,
        )
    between = {by: [one.least, one.most, one.between] for by, one in seconds.items()}
    found = calibrate_by_holdout(
        asking,
        CalibratedTwice,
        lambda wanted: calibrated_twice(seconds, wanted, firsts=shares),
        unseen,
        {"of": said.key, "floor": config.floor, "shares": shares}
        | {"given": [contrast, power], "combined": twins.COMBINED, **between},
    )
    chosen = (found.first, (contrast or 0.0) + found.value, power or 1.0)
    setting = f"contrast {chosen[1]:.4g}"
    if found.by == "power":
        chosen = (found.first, 0.0, found.value)
        setting = f"to the power {found.value:.4g}"
    right = f"{found.right:.3f} of their tokens right, where the holdout's have {found.wanted_right:.3f}"
    remedy = None  # nobody is warned of what was typed
    if config.contrast is None:
        remedy = "give a holdout more like the forget data, or another source (`loss=mari_base`)"
    setting = f"{found.first:.2g} of the twins generated, {setting}"
    return chosen, of_calibration(found, setting, remedy, whose=unseen.answers, right=f"{right}, and ")


def _describe_keys(names: Names) -> str:
    items, keys = len(names.named), names.keys
    without = sum(not one.keys for one in names.named)
    note = f"support: {counted(len(keys.strings), 'key string')} in {items - without} of "
    note += counted(items, "forget item")
    if keys.by_rarity:
        note += f", for {keys.by_rarity} of them their rare words"
    if without:
        note += f"; in the other {without} nothing is swapped, and they keep what the model says now"
    if keys.retained:
        held = f"{len(keys.retained)} of these strings too, as `{keys.retained[0]}`"
        note += f"; the retain data holds {held}: q leaves out what it says of them"
    if keys.missed:
        missed = counted(len(keys.missed), "string")
        note += f"; no forget record holds {missed} of the file, as `{keys.missed[0]}`"
    return note


def cost(config: UnlearnRun, items: Mapping[str, Sequence[Item]], tokens: Mapping[str, int]) -> SourceCost:
    ways, asked = ways_of(asked_of(config), items["forget"]), asked_of(config)
    readings = len(ways) + (Way.generated in ways)  # what is generated is drawn token by token first
    return SourceCost(
        readings * asked.twins * tokens["forget"] + tokens["holdout"],
        distributions=len(ways) + 1,  # and what the model before says
        drawn_tokens=DRAWN_TOKENS,
    )
