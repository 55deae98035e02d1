"""Lists of losses as TRL takes them: their names, their weights, their options."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from unipost.aggregation import Scaled, SequenceMean, TokenMean
from unipost.classical import ReverseKL
from unipost.divergence import Divergence
from unipost.levels import Level
from unipost.links import Link, RowLogistic
from unipost.mixture import Mixture
from unipost.objective import Objective
from unipost.pair_links import (
    AnchoredDown,
    AnchoredUp,
    BinaryClassifier,
    DiscoPOP,
    Exo,
    Hinge,
    Logistic,
    NoiseContrastive,
    PairLink,
    RobustLogistic,
    SelfPlay,
    Squared,
)
from unipost.parametric import Alpha
from unipost.parts import Scalar, concrete, in_range, require
from unipost.ratios import LengthDesensitised
from unipost.reference_points import OrderStatistics
from unipost.signals import Chosen, Preference

LossType = str | Sequence[str]
Weights = Sequence[Scalar] | None


@dataclasses.dataclass(frozen=True)
class Options:
    """The options that a pair loss of TRL reads beside its divergence."""

    beta: Scalar
    label_smoothing: Scalar = 0.0
    discopop_tau: Scalar = 0.05


def _robust(o: Options) -> PairLink:
    # 2403.00409 at a noise of 0 is DPO, which our part of that name refuses
    clean = concrete(o.label_smoothing) == 0.0
    return Logistic() if clean else RobustLogistic(o.label_smoothing)


# the link of each loss; `sigmoid` of TRL 1.16 reads no smoothing, so it is not here
LINKS: dict[str, Callable[[Options], Link | PairLink]] = {
    "hinge": lambda o: Hinge(),
    "ipo": lambda o: Squared(o.beta),
    "exo_pair": lambda o: Exo(o.label_smoothing),
    "robust": _robust,
    "discopop": lambda o: DiscoPOP(o.discopop_tau),
    "nca_pair": lambda o: NoiseContrastive(),
    "bco_pair": lambda o: BinaryClassifier(),
    "sppo_hard": lambda o: SelfPlay(0.5 / o.beta),
    "aot": lambda o: Logistic(o.label_smoothing),
    "aot_unpaired": lambda o: RowLogistic(o.label_smoothing),
    "apo_zero": lambda o: AnchoredUp(),
    "apo_down": lambda o: AnchoredDown(),
}
SORTED = {
    "aot": OrderStatistics("margins", "counted"),
    "aot_unpaired": OrderStatistics("rows", "counted"),
}


def scale(name: str, beta: Scalar) -> Scalar:
    """beta of the implicit reward; ipo and sppo_hard hold it in their target."""
    return 1.0 if name in ("ipo", "sppo_hard") else beta


def pair_term(
    link: Link | PairLink,
    beta: Scalar,
    divergence: Divergence = ReverseKL(),
    level: Level = "sequence",
    waived: tuple[str, ...] = (),
    **parts: Any,
) -> Objective:
    """A loss of preferences: the mean over all pairs, an empty response at log u = 0.

    No clamp unless `parts` names one. What we refuse and TRL computes is waived.
    """
    fields = {"anchor": "reference", "per": "one", "clamp": None} | parts
    fields.setdefault("aggregation", SequenceMean(empty="counted"))
    held = _waived(divergence, level, str(fields["anchor"]), str(fields["per"]))
    return Objective(
        link=link,
        beta=beta,
        divergence=divergence,
        level=level,
        signal=Preference(),
        waived=held + waived,
        **fields,
    )


def _waived(divergence: Divergence, level: str, anchor: str, per: str):
    """The refusals that would fire on a divergence that TRL takes as it is."""
    kl, slope = isinstance(divergence, ReverseKL), concrete(divergence.slope_at_zero)
    bare = anchor == "none"
    fires = {
        # any alpha: with finite f'(0+) the optimum may drop responses
        "pair_divergence": not bare and slope is not None and slope > -math.inf,
        # f'(u) over the length: lambda(x) keeps the weight 1/L_w - 1/L_l
        "pair_length": per == "length" and not kl,
        # f' of a geometric mean: no lambda(x) is known
        "pair_level": not bare and level == "sequence_mean" and not kl,
        # f' of a bare probability
        "pair_anchor": bare and not isinstance(divergence, (ReverseKL, Alpha)),
    }
    return tuple(name for name, fired in fires.items() if fired)


def chosen_nll() -> Objective:
    """-log pi of the chosen responses, the mean over all of their tokens."""
    return Objective(signal=Chosen(), aggregation=TokenMean())


def listed(
    where: str, loss_type: LossType, loss_weights: Weights, known: Collection[str]
) -> tuple[tuple[str, ...], tuple[Scalar, ...]]:
    """Names and weights of a list of losses; weights default to 1."""
    names = (loss_type,) if isinstance(loss_type, str) else tuple(loss_type)
    if not names:
        raise ValueError(f"{where}.loss_type: empty; write one of {_or(known)}")
    for name in names:
        if name not in known:
            raise ValueError(f"{where}.loss_type: {name!r}; write one of {_or(known)}")
    weights = tuple(loss_weights) if loss_weights else (1.0,) * len(names)
    if len(weights) != len(names):
        raise ValueError(
            f"{where}.loss_weights: {len(weights)} for {len(names)} losses; write one "
            "for each"
        )
    for k, weight in enumerate(weights):
        what = "is not positive and finite; leave the loss out"
        in_range(f"{where}.loss_weights.{k}", weight, 0.0, what=what)
    return names, weights


def desensitised(where: str, ld_alpha: Scalar | None) -> LengthDesensitised | None:
    """The ratio treatment of LD-DPO, None where it changes nothing."""
    known = concrete(ld_alpha)
    if ld_alpha is None or known == 1.0:
        return None
    inside = known is None or 0.0 <= known <= 1.0
    require(f"{where}.ld_alpha", ld_alpha, inside, "is outside [0, 1]")
    return LengthDesensitised(ld_alpha)


def combined(terms: Sequence[Objective], weights: Sequence[Scalar]):
    """The weighted sum of `terms`: a `Mixture`, or the only term itself."""
    if len(terms) > 1:
        return Mixture(tuple(terms), tuple(weights))
    (term,), (weight,) = terms, weights
    if concrete(weight) == 1.0:
        return term
    return dataclasses.replace(term, aggregation=Scaled(term.aggregation, weight))


class Option(NamedTuple):
    """An option, its value and default, and the losses that read it."""

    name: str
    value: Any
    default: Any
    readers: Collection[str]


def refuse_unread(where: str, names: Collection[str], *options: Option) -> None:
    """Refuse an option that is set while nothing in `names` reads it.

    TRL accepts and ignores it; no function here does.
    """
    for name, value, default, readers in options:
        plain = value if isinstance(value, (str, bool)) else concrete(value)
        if plain == default or set(names) & set(readers):
            continue
        said = "a value" if plain is None else repr(plain)
        raise ValueError(
            f"{where}.{name}: {said} with {_or(names)}, which does not read it; write "
            f"{name}={default!r}"
        )


def _or(names: Collection[str]) -> str:
    return ", ".join(names)
