"""What the fit term is: the link, the ratio, the reward that it implies."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

from unipost import links, pair_links
from unipost.advantages import Exponential
from unipost.classical import PearsonChi2, ReverseKL, TotalVariation
from unipost.mixed_groups import DemonstrationRows, content
from unipost.objective import Objective
from unipost.parametric import Alpha, Shaping, UnitCurvature
from unipost.parts import concrete
from unipost.ratios import GeometricClip, LengthDesensitised, SequenceToken
from unipost.reference_points import OrderStatistics
from unipost.score import Score
from unipost.signals import Chosen, Ones, Zeros
from unipost.weights import Truncate

Label = Literal["exact", "gradient", "conditional", "biased", "surrogate"]


class Status(NamedTuple):
    """A label (see `unipost.explain.status`), the part it is about, and why."""

    label: Label
    about: str
    line: str


def fit_status(objective: Objective) -> Iterator[Status]:
    """The lines about the link's loss."""
    signal = content(objective.signal)
    if isinstance(signal, Zeros):
        return
    if isinstance(objective.link, pair_links.PairLink):
        yield from _pair(objective, objective.link)
    elif isinstance(signal, Ones | Chosen):
        yield from _demonstrations(objective)
    elif isinstance(objective.signal, DemonstrationRows):
        yield from _off_policy(objective)
    else:
        yield from _rewards(objective)
        if objective.off_policy is not None:
            yield from _off_policy(objective.off_policy)


def _demonstrations(o: Objective) -> Iterator[Status]:
    power = _power(o)
    match o.link:
        case links.Linear() if isinstance(o.divergence, ReverseKL):
            yield Status("exact", "fit", "KL(expert || policy) up to a constant")
        case links.Linear() if power is not None and o.anchor == "none":
            yield _one_hot(power)
        case links.Weighted(weight=Truncate(cap=cap, power=p), over="none") if (
            concrete(cap) or 0.0
        ) >= 1.0 and concrete(p) == 1.0:
            line = "that of the total variation 1 - pi to a one-hot target"
            yield Status("gradient", "fit", line)
        case links.Weighted():
            yield Status("gradient", "fit", "that of a potential of the log-ratio")
        case links.Matching(divergence=TotalVariation()):
            line = (
                "SFT below r = 1/2; total variation + beta KL(pi || ref) only for beta"
            )
            line += " <= 1/osc(log expert/ref), never for one demonstration per prompt"
            yield Status("conditional", "fit", line)
        case links.Matching(divergence=f):
            line = (
                f"dual of {type(f).__name__}(pi || expert) + beta KL(pi || ref), for "
            )
            line += "several demonstrations per prompt, "
            bounded = (concrete(f.slope_at_infinity) or 0.0) < math.inf
            line += "r > -f'(inf) on every token" if bounded else "of full support"
            tied = o.gauge != "zero"
            line += ", V that of the logits" + ("" if tied else " (taken as 0 here)")
            yield Status("conditional", "fit", line)
        case links.Clipped():
            yield _clip_identity()
        case _:
            yield Status("surrogate", "fit", "a potential of its own")


def _power(score: Score) -> float | None:
    """p where the score is (u^p - 1)/p up to a factor, else None."""
    match score.divergence:
        case Alpha(a=a):
            known = concrete(a)
            return None if known is None else -known
        case PearsonChi2() | UnitCurvature(divergence=PearsonChi2()):
            return 1.0
    return None


def _one_hot(power: float) -> Status:
    if math.isclose(power, 1.0):
        return Status("exact", "fit", "the total variation 1 - pi to a one-hot target")
    if 0.0 < power < 1.0:
        line = "alpha-divergence to a one-hot target, up to a factor"
        return Status("exact", "fit", line)
    return Status("surrogate", "fit", "a potential, no alpha-divergence: power above 1")


def _clip_identity() -> Status:
    line = "A u - |A| hockey stick(u) per sample, a divergence at weight 1"
    return Status("exact", "clip", line)


def _pair(o: Objective, link: pair_links.PairLink) -> Iterator[Status]:
    if isinstance(o.ratio, LengthDesensitised):
        line = "discounted tokens: u is no ratio of probabilities"
        yield Status("biased", "ratio", line)
    reward = _reward(o, link)
    yield reward
    if isinstance(link, pair_links.Squared) and reward.label == "conditional":
        if _kl(o):
            line = (
                "preference probabilities themselves, KL-regularised (PsiPO, identity)"
            )
            yield Status("exact", "link", line)
            return
    yield from _preference(link)


def _reward(o: Objective, link: pair_links.PairLink) -> Status:
    """Whether beta f'(u) is the reward of a regularised optimum."""
    if isinstance(o.reference_point, OrderStatistics):
        line = "quantiles over the batch: the distribution of margins, not each pair"
        return Status("surrogate", "reward", line)
    if o.anchor == "none" or _shortened(o):
        why = "no reference" if o.anchor == "none" else "log-ratios divided by lengths"
        line = f"{why}: no regularised RL problem has it"
        return Status("surrogate", "reward", line)
    if not isinstance(link, pair_links.MarginLink):
        line = "each reward by itself: KL-regularised RL with log Z(x) taken as 0"
        return Status("conditional", "reward", line)
    if o.level == "token" and o.gauge != "vocabulary" and not _kl(o):
        line = "token rewards do not add up to a reward: only those of a KL do"
        return Status("biased", "reward", line)
    if (concrete(o.divergence.slope_at_zero) or 0.0) > -math.inf:
        line = "f'(0+) is finite: the optimum drops responses, and lambda(x) stays"
        return Status("biased", "reward", line)
    name = "KL" if _kl(o) else type(o.divergence).__name__
    unit = "token by token" if o.level == "token" else "per sequence"
    line = f"the optimum's of {name}-regularised RL, {unit}, where ref > 0"
    return Status("conditional", "reward", line)


def _kl(o: Score) -> bool:
    return isinstance(o.divergence, ReverseKL)


def _shortened(o: Score) -> bool:
    return o.level == "sequence_mean" or o.per == "length"


def _preference(link: pair_links.PairLink) -> Iterator[Status]:
    """What the link says of how people prefer."""
    match link:
        case pair_links.Logistic(smoothing=e, margin=lead, bound=bound):
            line = "maximum likelihood if preferences follow Bradley-Terry"
            if concrete(e) != 0.0:
                line += f" and a share {_number(e)} of the labels is flipped"
            if concrete(lead) != 0.0:
                line += f" with a lead of {_number(lead)}"
            yield Status("conditional", "link", line)
            if bound is not None:
                line = (
                    f"no gradient where |m| > {_number(bound)}: a clip, no likelihood"
                )
                yield Status("biased", "clip", line)
        case pair_links.RobustLogistic(noise=e):
            line = f"unbiased for clean labels if a share {_number(e)} is flipped"
            yield Status("conditional", "link", line)
        case pair_links.Exo():
            line = "reverse KL of two candidates; of the policy in the limit of many"
            yield Status("conditional", "link", line)
        case _:
            yield Status("surrogate", "link", "a loss that orders the pair")


def _number(value) -> str:
    known = concrete(value)
    return "e" if known is None else f"{known:g}"


def _rewards(o: Objective) -> Iterator[Status]:
    match o.link:
        case links.Linear() if isinstance(o.signal, Exponential):
            line = "KL(pi* || pi) up to factor and constant, pi* ~ data e^(A/tau)"
            capped = concrete(o.signal.cap) != math.inf
            why = f"; where e^(A/tau) <= {_number(o.signal.cap)}" if capped else ""
            yield Status("conditional" if capped else "exact", "fit", line + why)
        case links.Linear() if _kl(o):
            line = (
                "the policy gradient on fresh samples of pi; no ratio corrects others"
            )
            yield Status("conditional", "fit", line)
        case links.Residual(centre="none"):
            line = "on fresh samples the gradient of KL-regularised RL; on any its"
            yield Status(
                "exact", "fit", f"{line} minimiser if the baseline is beta log Z"
            )
        case links.Residual() | links.Contrast():
            line = "on fresh samples the gradient of KL-regularised RL, on any its"
            yield Status(
                "exact", "fit", f"{line} minimiser: log Z cancels in the group"
            )
        case links.Balance(divergence=f):
            line = f"on fresh samples that of {type(f).__name__}(pi || pi*), pi* ~ ref"
            line += " e^(A/tau); on others the same minimiser"
            yield Status("gradient", "fit", line)
        case links.Gain():
            line = "a value function of gains and losses; z_0 estimates KL(pi || ref)"
            yield Status("surrogate", "fit", line)
        case links.Weighted():
            line = "that of a potential of the log-ratio, the value is not it"
            yield Status("gradient", "fit", line)
            yield from _weighted_ratio(o.link, o)
        case links.Clipped() | links.Importance() | links.SoftGate() | links.Linear():
            yield from _ratio(o)
        case _:
            yield Status("surrogate", "fit", "a loss of its own")


def _weighted_ratio(link: links.Weighted, o: Objective) -> Iterator[Status]:
    level = o.level if link.level == "own" else link.level
    if link.over == "none":
        return
    unit = {"token": "a token's", "sequence": "the sequence's"}.get(level, "a mean")
    line = f"{unit} ratio to {link.over}, cut or tapered: not unbiased off policy"
    yield Status("biased", "ratio", line)


def _ratio(o: Objective) -> Iterator[Status]:
    """Importance ratios: exact at policy = old, and what they are elsewhere."""
    if o.anchor == "self":
        line = "that of REINFORCE at u = 1; the value is -mean A"
        yield Status("gradient", "ratio", line)
    elif isinstance(o.ratio, SequenceToken):
        line = "that of the geometric mean ratio where A is one number per sequence"
        yield Status("gradient", "ratio", line)
    if isinstance(o.link, links.Clipped):
        yield _clip_identity()
    if isinstance(o.link, links.SoftGate):
        yield Status("biased", "gate", "fades ratios out: of bounded variance")
    if isinstance(o.ratio, GeometricClip):
        yield Status("biased", "clip", "log-ratios clipped before their mean")
    if o.anchor == "self":
        return
    if o.level == "token" and not isinstance(o.ratio, SequenceToken):
        line = f"a token's, not the sequence's: exact only at pi = {o.anchor}"
        yield Status("biased", "ratio", line)
    elif o.level == "sequence":
        line = "the sequence's importance ratio: unbiased off policy"
        yield Status("exact", "ratio", line)
    else:
        line = "a geometric mean, no importance weight; gradient over length"
        yield Status("biased", "ratio", line)


def _off_policy(score: Score) -> Iterator[Status]:
    if score.anchor == "none":
        name = "shaped " if isinstance(score.divergence, Shaping) else ""
        line = f"{name}pi for pi/behavior, as if behavior were 1"
        yield Status("biased", "off-policy rows", line)
    elif isinstance(score.link, links.Linear | links.Importance | links.Clipped):
        line = f"a ratio to {score.anchor} per {score.level}"
        yield Status("biased", "off-policy rows", line)
