"""A tiny float64 model, items, a frozen reference, and the same step from full logits in one graph."""

import naive
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from mari_cli.config import Packing
from mari_cli.data.tokenize import Item
from mari_cli.lm_head import head_of
from mari_cli.losses.ascent import KLGA
from mari_cli.losses.base import LossConfig, RetainLoss
from mari_cli.losses.ceu import CEUConfig
from mari_cli.losses.engine import log_probabilities
from mari_cli.losses.jensun import JensUnConfig
from mari_cli.losses.mari import Estimator, GradientThrough, MariConfig
from mari_cli.losses.objective import build
from mari_cli.losses.pdu import PDUConfig
from mari_cli.losses.preference import DPOConfig, NPOConfig
from mari_cli.losses.rmu import RMUConfig
from mari_cli.losses.satimp import SatImpConfig
from mari_cli.losses.simnpo import SimNPOConfig
from mari_cli.losses.step import Rows, Step, Supported
from mari_cli.losses.undial import UndialConfig
from mari_cli.losses.unilogit import UnilogitConfig
from mari_cli.losses.wga import WGAConfig
from mari_cli.models.backbone import hidden_states
from mari_cli.models.packing import choose_layout
from mari_cli.train.step import Recalled, Reference, positions_of

V, K = 23, 5


class Bare:
    """As much of a language model as a step needs: a float64 network without autocast."""

    device = torch.device("cpu")
    dtype = torch.float32
    widens = False

    def __init__(self, model, *, packing=Packing.never):
        self.model = model.double().eval()
        self.compute = self
        self.layout = choose_layout(self.model, self, packing)

    def autocast(self):
        return torch.autocast("cpu", enabled=False)


def gpt2(dropout: float = 0.0, seed: int = 0, packing: Packing = Packing.never) -> Bare:
    torch.manual_seed(seed)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 32, "vocab_size": V}
    rates = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
    config = GPT2Config(**sizes, **rates, bos_token_id=0, eos_token_id=1)
    return Bare(GPT2LMHeadModel(config), packing=packing)


def llama(seed: int = 0, packing: Packing = Packing.never) -> Bare:
    torch.manual_seed(seed)
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "hidden_size": 16}
    sizes |= {"intermediate_size": 24, "vocab_size": V, "max_position_embeddings": 32}
    return Bare(LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=False)), packing=packing)


def items(count: int, seed: int) -> list[Item]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for i in range(count):
        length = int(torch.randint(6, 14, (1,), generator=generator))
        made.append(Item(tuple(torch.randint(2, V, (length,), generator=generator).tolist()), 3, i))
    return made


GROUPS = {"forget": items(5, 1), "retain": items(8, 2), "alternative": items(5, 3)}
LOSSES: dict[str, LossConfig] = {
    "mari pooled": MariConfig(name="mari", estimator=Estimator.pooled),
    "mari pooled both": MariConfig(
        name="mari", estimator=Estimator.pooled, gradient_through=GradientThrough.both
    ),
    "mari token": MariConfig(name="mari", estimator=Estimator.token),
    "mari context": MariConfig(name="mari", estimator=Estimator.context),
    "kl_ga": KLGA(name="kl_ga"),
    "npo": NPOConfig(name="npo"),
    "dpo": DPOConfig(name="dpo"),
    "simnpo": SimNPOConfig(name="simnpo"),
    "wga": WGAConfig(name="wga"),
    "satimp": SatImpConfig(name="satimp", beta1=1.0),
    "ceu": CEUConfig(name="ceu", retain_loss=RetainLoss.nll),
    "unilogit": UnilogitConfig(name="unilogit"),
    "jensun": JensUnConfig(name="jensun"),
    "pdu": PDUConfig(name="pdu", retain_weight=2.0),
    "undial": UndialConfig(name="undial", strength=2.0),
    "undial jensen_shannon": UndialConfig(name="undial", retain_loss=RetainLoss.jensen_shannon),
    "npo states": NPOConfig(name="npo", retain_loss=RetainLoss.states, retain_layer=1),
    "mari states": MariConfig(
        name="mari",
        estimator=Estimator.context,
        retain_loss=RetainLoss.states,
        retain_layer=1,
        retain_nll_weight=0.5,
    ),
    "rmu nll": RMUConfig(name="rmu", layer=1, retain_loss=RetainLoss.nll),
    "rmu": RMUConfig(name="rmu", layer=1, steering=2.0),
}


def group_of(config: LossConfig, groups=GROUPS):
    return {role: groups[role] for role in build(config).needs.roles}


def supported_at(item: Item) -> tuple[torch.Tensor, torch.Tensor]:
    """Some distribution over K tokens for each target of ``item``: the same wherever the item stands."""
    generator = torch.Generator().manual_seed(hash(item.input_ids) % 2**31)
    labels_M1 = torch.tensor(item.input_ids[item.supervised_from :]).unsqueeze(-1)
    order_MV = torch.rand(item.num_targets, V, generator=generator).scatter(-1, labels_M1, -1.0)
    ids_MK = order_MV.argsort(-1)[:, :K]  # the label first
    weights_MV = torch.rand(item.num_targets, V, generator=generator, dtype=torch.float64)
    return ids_MK, (weights_MV / weights_MV.sum(-1, keepdim=True)).gather(-1, ids_MK)


def reference_for(config: LossConfig, frozen: Bare, groups) -> Reference:
    """What another model of the same architecture, the reference, says of a step."""
    needs = build(config).needs
    head = head_of(frozen.model).frozen()

    @torch.no_grad()
    def recall(role: str, at: range) -> Recalled:
        chosen = [groups[role][i] for i in at]
        layer = needs.states.layer if needs.states else None
        h_ND, layer_ND = hidden_states(frozen.model, frozen.compute, chosen, layer=layer)
        log_p_S = supported = None
        if role in needs.reference_log_p:
            positions = positions_of(chosen, chosen)
            log_p_N = log_probabilities(head, h_ND, positions.labels_N, chunk=7)
            log_p_S = log_p_N.new_zeros(len(chosen)).index_add(0, positions.sequence_N, log_p_N)
        if needs.stored_tokens is not None and role == "forget":
            parts = [supported_at(item) for item in chosen]
            supported = tuple(torch.cat(side) for side in zip(*parts, strict=True))
        return Recalled(
            h_ND if role in needs.beside_reference else None,
            log_p_S,
            supported,
            layer_ND if role in needs.reference_layer else None,
        )

    return Reference(recall, head)


def in_one_graph(lm: Bare, config: LossConfig, groups, reference: Reference, forwards=None):
    """Terms and gradients by parameter of the same step, from full logits and one backward pass.

    ``forwards``: by role, the items of each forward pass; None: all in one.
    """
    objective = build(config)
    forwards = forwards or {role: [group] for role, group in groups.items()}
    layer = objective.needs.states.layer if objective.needs.states else None
    seen = {
        role: [hidden_states(lm.model, lm.compute, part, layer=layer) for part in parts]
        for role, parts in forwards.items()
    }
    h = {role: torch.cat([last_ND for last_ND, _ in parts]) for role, parts in seen.items()}
    of_layer = {
        role: None if layer is None else torch.cat([layer_ND for _, layer_ND in parts])
        for role, parts in seen.items()
    }
    positions = {role: positions_of(group, group) for role, group in groups.items()}
    recalled = {role: reference.recall(role, range(len(group))) for role, group in groups.items()}
    rows = {}
    for role in groups:
        supported = None
        if recalled[role].supported_MK is not None:
            supported = Supported(*recalled[role].supported_MK)
        rows[role] = Rows(
            h[role], positions[role].labels_N, recalled[role].states_ND, supported, of_layer[role]
        )
    readings = naive.readings(
        head_of(lm.model),
        rows,
        objective.needs,
        reference=reference.head,
        index_N={role: at.index_N for role, at in positions.items()},
    )
    pools = None
    if objective.needs.pooled:  # the naive information is one number already
        pools = objective.needs.pooled.pools_of(positions)
        pools = type(pools)(**{**vars(pools), "weight_C": torch.ones(1, dtype=torch.float64)})
    layers = {role: r.layer_ND for role, r in recalled.items() if r.layer_ND is not None}
    counts = {role: len(at.labels_N) for role, at in positions.items()}
    log_p = {role: r.log_p_S for role, r in recalled.items() if r.log_p_S is not None}
    terms = objective.terms(Step(positions, log_p, pools, counts, layers), readings)
    lm.model.zero_grad()
    terms["loss"].backward()
    nothing = {name: torch.zeros_like(p) for name, p in lm.model.named_parameters()}  # of what is not reached
    return {name: term.item() for name, term in terms.items()}, nothing | gradients(lm)


def gradients(lm: Bare) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in lm.model.named_parameters() if p.grad is not None}
