"""What the TRL aliases of preferences and supervision refuse, in one line each."""

import pytest

from unipost import trl
from unipost.trl.preferences import DPO_LOSSES, NOT_WEIGHTED, TAKE_A_DIVERGENCE

JS = {"f_divergence_type": "js_divergence"}
ALPHA = {"f_divergence_type": "alpha_divergence"}
DPO = [
    ({"loss_type": "kto_pair"}, r"dpo\.loss_type: 'kto_pair'; write one of sigmoid"),
    ({"loss_type": []}, r"dpo\.loss_type: empty; write one of sigmoid"),
    ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0]}, r"s: 1 for 2 losses"),
    (
        {"loss_type": ["ipo", "sft"], "loss_weights": [1.0, -1.0]},
        r"dpo\.loss_weights\.1: -1 is not positive and finite; leave the loss out",
    ),
    ({"label_smoothing": 0.1}, r"dpo\.label_smoothing: 0\.1 with sigmoid, which does"),
    (
        {"loss_type": ["ipo", "nca_pair"], "label_smoothing": 0.1},
        r"0\.1 with ipo, nca_pair, which does not read it; write label_smoothing=0\.0",
    ),
    ({"loss_type": "exo_pair"}, r"dpo\.label_smoothing: 0 with exo_pair; write 1e-3"),
    ({"f_alpha_divergence_coef": 1.5}, r"_coef: 1\.5 with reverse_kl, which does not"),
    ({"f_divergence_type": "tv"}, r"f_divergence_type: 'tv'; write reverse_kl"),
    (ALPHA | {"f_alpha_divergence_coef": -0.5}, r"_coef: -0\.5 is negative; write 0"),
    ({"discopop_tau": 0.1}, r"dpo\.discopop_tau: 0\.1 with sigmoid, which does not"),
    ({"loss_type": "sft", "ld_alpha": 0.5}, r"dpo\.ld_alpha: 0\.5 with sft, which"),
    ({"ld_alpha": 1.5}, r"dpo\.ld_alpha: 1\.5 is outside \[0, 1\]"),
    *(
        ({"loss_type": name, "use_weighting": True}, rf"ing: {name} has no weighted")
        for name in NOT_WEIGHTED
    ),
    *(
        ({"loss_type": ["sigmoid", name], **JS}, rf"js_divergence with {name}, where")
        for name in DPO_LOSSES
        if name not in TAKE_A_DIVERGENCE
    ),
]
OLD = [
    ({"loss_type": "aot_unpaired"}, r"dpo_old\.loss_type: 'aot_unpaired'; write one"),
    ({"loss_type": "hinge", "label_smoothing": 0.1}, r"smoothing: 0\.1 with hinge"),
    ({"loss_type": "nca_pair", "reference_free": True}, r"_free: True with nca_pair"),
    ({"loss_type": "aot", **JS}, r"_type: 'js_divergence' with aot, which does not"),
    ({"f_divergence_type": "forward_kl"}, r"_type: 'forward_kl'; write reverse_kl, js"),
    (JS | {"f_alpha_divergence_coef": 0.5}, r"_coef: 0\.5 with js_divergence, which"),
    ({"bco_delta": 0.1}, r"dpo_old\.bco_delta: 0\.1 with sigmoid, which does not"),
    ({"loss_type": "sft", "logps": "sum"}, r"dpo_old\.logps: 'sum' with sft, which"),
    ({"ld_alpha": 0.5, **JS}, r"dpo_old\.ld_alpha: with js_divergence has no form"),
    ({"loss_type": "bco_pair", "ld_alpha": 0.5}, r"ld_alpha: with bco_pair and its"),
    (
        {"loss_type": "aot", "ld_alpha": 0.5},
        r"ld_alpha: the losses of aot and aot_pair",
    ),
    ({"loss_type": "aot_pair", "use_weighting": True}, r"use_weighting: the losses of"),
    ({"use_weighting": True, "rpo_alpha": 1.0}, r"use_weighting: with the NLL of rpo"),
    ({"loss_type": ["ipo", "sft"], "use_weighting": True}, r"ing: with the NLL of rpo"),
]
OTHERS = [
    ("kto", {"loss_type": "bco"}, r"kto\.loss_type: 'bco'; write kto or apo_zero_unp"),
    ("cpo", {"loss_type": "kto_pair"}, r"cpo\.loss_type: 'kto_pair'; write one of sig"),
    ("cpo", {"loss_type": "hinge", "label_smoothing": 0.1}, r"ing: 0\.1 with hinge"),
    ("cpo", {"simpo_gamma": 0.7}, r"cpo\.simpo_gamma: 0\.7 with sigmoid, which does"),
    ("sft", {"loss_type": "mle"}, r"sft\.loss_type: 'mle'; write nll or dft"),
    ("sft", {"loss_type": "dft", "label_smoothing_factor": 0.1}, r"r: 0\.1 with dft"),
    ("gkd", {"reduction": "none"}, r"gkd\.reduction: 'none'; write batchmean, sum or"),
    ("gkd", {"reduction": "sum", "num_items_in_batch": 3}, r"batch: 3 replaces reduct"),
    ("gkd", {"reduction": "sum", "labels": "none"}, r"gkd\.labels: none with reduct"),
]
REFUSED = [("dpo", *case) for case in DPO] + [("dpo_old", *case) for case in OLD]


@pytest.mark.parametrize("alias, options, message", REFUSED + OTHERS)
def test_refusals(alias, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        getattr(trl, alias)(**options)
    assert "\n" not in str(caught.value)
