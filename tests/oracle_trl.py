"""Every TRL objective as a plain numpy function (hyper, inputs, at=None) -> value.

`ORACLES[family]` takes the options and arrays of one recorded case. `at` is the value
of the differentiated input at which TRL's detached quantities are evaluated.
"""

import numpy as np
from oracle_trl_dpo import dpo
from oracle_trl_dpo_old import dpo_old
from oracle_trl_grpo import gmpo, grpo, rloo_loss
from oracle_trl_preference import cpo, kto, orpo, reward_model, sft
from oracle_trl_rewards import (
    a2po,
    gkd,
    grpo_advantages,
    is_correction,
    rloo_advantages,
)

ORACLES = {
    "dpo": dpo,
    "dpo_old": dpo_old,
    "kto": kto,
    "cpo": cpo,
    "orpo": orpo,
    "sft": sft,
    "reward_model": reward_model,
    "grpo": grpo,
    "gmpo": gmpo,
    "rloo": rloo_loss,
    "rloo_advantages": rloo_advantages,
    "grpo_advantages": grpo_advantages,
    "is_correction": is_correction,
    "a2po": a2po,
    "gkd": gkd,
}
DIFFERENTIATED = ("policy_logps", "logits", "scores", "student_logits")


def differentiated(inputs):
    """The name of the input that the gradient is taken in."""
    return next(name for name in DIFFERENTIATED if name in inputs)


def gradient(family, hyper, inputs, step=1e-6):
    """Central differences of a loss in its policy input, detached parts frozen."""
    name = differentiated(inputs)
    at = np.array(inputs[name], np.float64)
    grad = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        values = []
        for sign in (1.0, -1.0):
            x = at.copy()
            x[index] += sign * step
            values.append(ORACLES[family](hyper, {**inputs, name: x}, at))
        grad[index] = (values[0] - values[1]) / (2 * step)
    return grad
