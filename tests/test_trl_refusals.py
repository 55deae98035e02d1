"""What the TRL aliases of preferences and supervision refuse, in one line each."""

import pytest

from unipost import trl
from unipost.trl.preferences import DPO_LOSSES, NOT_WEIGHTED, TAKE_A_DIVERGENCE

REFUSED = [
    (lambda: trl.dpo("kto_pair"), r"dpo\.loss_type: 'kto_pair'; write one of sigmoid"),
    (lambda: trl.dpo([]), r"dpo\.loss_type: empty"),
    (lambda: trl.dpo(["sigmoid", "sft"], [1.0]), r"loss_weights: 1 for 2 losses"),
    (lambda: trl.dpo(["ipo", "sft"], [1.0, -1.0]), r"dpo\.loss_weights\.1: -1 is not"),
    (
        lambda: trl.dpo(label_smoothing=0.1),
        r"label_smoothing: 0\.1 with sigmoid, which",
    ),
    (lambda: trl.dpo("exo_pair"), r"dpo\.label_smoothing: 0 with exo_pair; write 1e-3"),
    (lambda: trl.dpo(f_alpha_divergence_coef=1.5), r"_coef: 1\.5 with reverse_kl"),
    (
        lambda: trl.dpo(f_divergence_type="tv"),
        r"f_divergence_type: 'tv'; write reverse",
    ),
    (
        lambda: trl.dpo("alpha", f_divergence_type="alpha_divergence"),
        r"dpo\.loss_type: 'alpha'",
    ),
    (
        lambda: trl.dpo("sft", None, 0.1, "alpha_divergence", -0.5),
        r"dpo\.f_alpha_divergence_coef: -0\.5 is negative",
    ),
    (lambda: trl.dpo(discopop_tau=0.1), r"dpo\.discopop_tau: 0\.1 with sigmoid"),
    (lambda: trl.dpo("sft", ld_alpha=0.5), r"dpo\.ld_alpha: 0\.5 with sft"),
    (lambda: trl.dpo(ld_alpha=1.5), r"dpo\.ld_alpha: 1\.5 is outside \[0, 1\]"),
    *(
        (
            lambda name=name: trl.dpo(name, use_weighting=True),
            rf"dpo\.use_weighting: {name} has no weighted form",
        )
        for name in NOT_WEIGHTED
    ),
    *(
        (
            lambda name=name: trl.dpo(
                ["sigmoid", name], f_divergence_type="forward_kl"
            ),
            rf"dpo\.f_divergence_type: forward_kl with {name}, where the normaliser",
        )
        for name in DPO_LOSSES
        if name not in TAKE_A_DIVERGENCE
    ),
    (lambda: trl.dpo_old("aot_unpaired"), r"dpo_old\.loss_type: 'aot_unpaired'"),
    (lambda: trl.dpo_old("hinge", label_smoothing=0.1), r"smoothing: 0\.1 with hinge"),
    (
        lambda: trl.dpo_old("nca_pair", reference_free=True),
        r"reference_free: True with",
    ),
    (lambda: trl.dpo_old("aot", f_divergence_type="js_divergence"), r"_type: 'js_div"),
    (
        lambda: trl.dpo_old(f_divergence_type="forward_kl"),
        r"_type: 'forward_kl'; write",
    ),
    (lambda: trl.dpo_old(bco_delta=0.1), r"dpo_old\.bco_delta: 0\.1 with sigmoid"),
    (lambda: trl.dpo_old("sft", logps="sum"), r"dpo_old\.logps: 'sum' with sft"),
    (
        lambda: trl.dpo_old(ld_alpha=0.5, f_divergence_type="js_divergence"),
        r"dpo_old\.ld_alpha: with js_divergence",
    ),
    (lambda: trl.dpo_old("bco_pair", ld_alpha=0.5), r"ld_alpha: with bco_pair"),
    (lambda: trl.dpo_old("aot", ld_alpha=0.5), r"ld_alpha: the losses of aot"),
    (lambda: trl.dpo_old("aot_pair", use_weighting=True), r"use_weighting: the losses"),
    (
        lambda: trl.dpo_old(use_weighting=True, rpo_alpha=1.0),
        r"dpo_old\.use_weighting: with the NLL",
    ),
    (lambda: trl.kto("bco"), r"kto\.loss_type: 'bco'; write kto or apo_zero_unpaired"),
    (lambda: trl.cpo("kto_pair"), r"cpo\.loss_type: 'kto_pair'"),
    (lambda: trl.cpo("hinge", label_smoothing=0.1), r"cpo\.label_smoothing: 0\.1 with"),
    (lambda: trl.cpo(simpo_gamma=0.7), r"cpo\.simpo_gamma: 0\.7 with sigmoid"),
    (lambda: trl.sft("mle"), r"sft\.loss_type: 'mle'; write nll or dft"),
    (lambda: trl.sft("dft", None, 0.1), r"label_smoothing_factor: 0\.1 with dft"),
    (lambda: trl.gkd(reduction="none"), r"gkd\.reduction: 'none'"),
    (
        lambda: trl.gkd(reduction="sum", num_items_in_batch=3),
        r"gkd\.num_items_in_batch: 3 replaces reduction",
    ),
    (lambda: trl.gkd(reduction="sum", labels="none"), r"gkd\.labels: none with"),
]


@pytest.mark.parametrize("call, message", REFUSED)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
