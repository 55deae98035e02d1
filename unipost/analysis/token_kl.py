"""KL per token between two models: exact, sampled, and as one paper computed it.

At every state s_t of given responses, p the tuned model, q the base, r_t = log p(y_t |
s_t) - log q(y_t | s_t):

    reverse  KL(p || q) = sum_v p log(p/q)      forward  KL(q || p)    whole vocabulary
    k1 = r    k2 = r^2 / 2    k3 = e^-r - 1 + r         from the token that was drawn

The sampled ones estimate KL(p || q) where the responses are the tuned model's own at
temperature 1 (k2 with a bias); on others they are log-ratios and no KL.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from unipost.analysis.compare import Compared
from unipost.analysis.statistics import Interval, bootstrap_mean, percentiles


class TokenKL(NamedTuple):
    """Means over all tokens, in nats; see the module."""

    reverse: float
    forward: float
    k1: float
    k2: float
    k3: float


def token_kl(compared: Compared) -> TokenKL:
    """`TokenKL` over all tokens of the responses."""
    r = compared.log_ratio
    return TokenKL(
        reverse=compared.mean(compared.reverse),
        forward=compared.mean(compared.forward),
        k1=compared.mean(r),
        k2=compared.mean(r**2 / 2),
        k3=compared.mean(np.expm1(-r) + r),
    )


def token_mean(compared: Compared, values: np.ndarray, draws: int = 2000) -> Interval:
    """Mean of [P G T] over all tokens, with an interval over prompts drawn anew."""
    kept = np.where(compared.mask, values, 0.0)
    total, count = (x.sum((1, 2)) for x in (kept, compared.mask))
    place = np.random.default_rng(0).integers(len(total), size=(draws, len(total)))
    sums, counts = total[place].sum(1), count[place].sum(1)
    many = np.divide(sums, counts, out=np.full(draws, np.nan), where=counts > 0)
    return Interval(float(total.sum() / count.sum()), *percentiles(many))


def per_response(compared: Compared, values: np.ndarray) -> Interval:
    """Mean over responses of the sum over tokens of [P G T], and its interval.

    Of `forward` on the base's own responses this is KL(q || p) of whole responses, the
    predictor of 2509.04259; of `reverse` on the tuned model's, KL(p || q). The interval
    is over prompts.
    """
    sums = np.where(compared.mask, values, 0.0).sum(-1)
    return bootstrap_mean(sums.mean(-1)[None])


def paper_kl(compared: Compared, skip: int = 1) -> float:
    """The KL of 2507.00432's released code: one sample, mean per item, absolute value.

        | mean_i mean_t [log(p(y_t) + 1e-10) - log(q(y_t) + 1e-10)] |

    on the tuned model's own responses: a long response weighs as much as a short one,
    and the absolute value hides a mean below 0. `skip` leaves out the first token of a
    response, as their offset does; responses that are no longer are left out. NaN
    where none is left. Of greedy responses this is the log-ratio at the mode, no KL.
    """
    p, q = (np.log(np.exp(x.logp) + 1e-10) for x in (compared.tuned, compared.base))
    mask = compared.mask.copy()
    mask[..., :skip] = False
    rows = compared._replace(mask=mask).per_row(p - q)
    kept = rows[~np.isnan(rows)]
    return float(abs(kept.mean())) if kept.size else float("nan")
