"""All divergences under their names: the public list.

`reverse_kl` is KL(policy || other), `forward_kl` is KL(other || policy). To add one,
see `unipost.Divergence`; a config names it by dotted path, `mypkg.mine:MyDivergence`.
"""

from __future__ import annotations

from collections.abc import Callable

from unipost.classical import (
    Chi2KL,
    ForwardKL,
    Jeffreys,
    JensenShannon,
    NeymanChi2,
    PearsonChi2,
    ReverseKL,
    SquaredHellinger,
    TotalVariation,
)
from unipost.divergence import Divergence
from unipost.parametric import (
    Alpha,
    HockeyStick,
    LogOdds,
    Shaping,
    SkewJensenShannon,
    adjoint,
    unit_curvature,
)

DIVERGENCES: dict[str, Callable[..., Divergence]] = {
    "reverse_kl": ReverseKL,
    "forward_kl": ForwardKL,
    "jensen_shannon": JensenShannon,
    "pearson_chi2": PearsonChi2,
    "neyman_chi2": NeymanChi2,
    "squared_hellinger": SquaredHellinger,
    "alpha": Alpha,
    "jeffreys": Jeffreys,
    "chi2_kl": Chi2KL,
    "total_variation": TotalVariation,
    "hockey_stick": HockeyStick,
    "shaping": Shaping,
    "skew_jensen_shannon": SkewJensenShannon,
    "log_odds": LogOdds,
    "unit_curvature": unit_curvature,
    "adjoint": adjoint,
}
