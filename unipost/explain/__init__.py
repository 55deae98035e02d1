"""What an objective says: its formula, its gradient coefficient, what it reads."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from unipost.aggregation import Constant, SequenceMean, SequenceSum, TokenMean
from unipost.batch import Batch, Streams
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
from unipost.links import Clipped, Importance, Linear, Matching, Weighted
from unipost.objective import Objective
from unipost.pair_links import Logistic, PairLink, Squared
from unipost.parametric import Alpha, HockeyStick, Shaping, UnitCurvature
from unipost.parts import concrete
from unipost.penalties import Penalty
from unipost.score import Score
from unipost.signals import (
    BatchZScore,
    LeaveOneOut,
    Mean,
    Ones,
    Preference,
    Raw,
    ZScore,
)
from unipost.weights import Truncate

Array = jax.Array


def gradient_coefficient(
    objective: Objective, logps: Array | Streams, batch: Batch
) -> Array:
    """GC [P, G, T] with grad L = -sum_it w_it GC_it grad log pi(y_t | s_t).

    w is the aggregation's weight of the token's unit, row weights included: that of the
    token (1/tokens for a token mean), of the row at sequence level (1/rows), of the
    pair for a preference (1/pairs, so that GC of DPO is +-beta sigmoid(-margin)). GC is
    0 outside the mask. It says how hard the objective raises (GC > 0) or lowers the
    log-probability of a token, the penalty included. Source: 2402.03300 section 5.2.

    Raises ValueError for a value gauge, an entropy bonus or an exact penalty, whose
    gradient also goes through the other tokens of the vocabulary.
    """
    for name, used in {
        "gauge": objective.gauge != "zero",
        "entropy_bonus": objective.entropy_bonus is not None,
        "penalty": objective.penalty is not None
        and objective.penalty.estimator == "exact",
    }.items():
        if used:
            raise ValueError(
                f"objective.{name}: its gradient goes through the whole vocabulary, no "
                "multiple of grad log pi of the token; drop it to see the rest"
            )
    prepared = objective.prepare(batch)
    policy = logps.policy if isinstance(logps, Streams) else jnp.asarray(logps)
    grad = jax.grad(lambda x: objective.loss(x, prepared)[0])(policy)
    weight = prepared.weight
    if isinstance(objective.link, PairLink):
        unit = weight.sum((-2, -1), keepdims=True)
    else:
        unit = weight if objective.level == "token" else weight.sum(-1, keepdims=True)
    return jnp.where(weight != 0, -grad / jnp.where(unit != 0, unit, 1.0), 0.0)


def _number(value) -> str:
    known = concrete(value)
    return "?" if known is None else f"{known:g}"


def _times(value, text: str) -> str:
    return text if concrete(value) == 1.0 else f"{_number(value)} {text}"


def slope_formula(divergence: Divergence, u: str = "u") -> str:
    """f'(u) as text; a divergence of one's own prints as f'(u) with its name."""
    match divergence:
        case ReverseKL():
            return f"log {u}"
        case ForwardKL():
            return f"(1 - 1/{u})"
        case JensenShannon():
            return f"log(2{u}/(1+{u}))"
        case PearsonChi2():
            return f"2({u} - 1)"
        case NeymanChi2():
            return f"(1 - {u}^-2)"
        case SquaredHellinger():
            return f"(1 - {u}^-1/2)"
        case Alpha(a=a):
            known = concrete(a)
            if known is not None and known < 0:
                return f"({u}^{-known:g} - 1)/{-known:g}"
            return f"(1 - {u}^-{_number(a)})/{_number(a)}"
        case Jeffreys():
            return f"(log {u} + 1 - 1/{u})"
        case Chi2KL():
            return f"({u} - 1 + log {u})"
        case TotalVariation():
            return f"sign({u} - 1)/2"
        case HockeyStick(gamma=gamma):
            return f"1{{{u} > {_number(gamma)}}}"
        case Shaping(gamma=gamma):
            return f"{u}/({u} + {_number(gamma)})"
        case UnitCurvature(divergence=PearsonChi2()):
            return f"({u} - 1)"
        case UnitCurvature(divergence=inner):
            return f"{slope_formula(inner, u)}/{_number(inner.curvature)}"
    return f"f'_{type(divergence).__name__}({u})"


def phi_formula(divergence: Divergence) -> str:
    """phi(r) = -f*(-r) as text, with its saturating branch."""
    match divergence:
        case TotalVariation():
            return "min(r, 1/2)"
        case PearsonChi2():
            return "(r - r^2/4 for r <= 2, else 1)"
        case SquaredHellinger():
            return "r/(1+r)"
        case ReverseKL():
            return "(1 - e^-r)"
        case ForwardKL():
            return "log(1+r)"
        case JensenShannon():
            return "log(2 - e^-r)"
        case NeymanChi2():
            return "(2 sqrt(1+r) - 2)"
        case Alpha(a=a):
            a = _number(a)
            return f"(1 - (1 + {a} r)^(({a} - 1)/{a}))/(1 - {a})"
    return f"phi_{type(divergence).__name__}(r)"


_ANCHOR = {
    "none": "pi",
    "reference": "pi/ref",
    "old": "pi/old",
    "behavior": "pi/behavior",
    "self": "pi/sg(pi)",
}
_LEVEL = {
    "token": ("u_t = {}", "per token"),
    "sequence": ("u = prod_t {}", "per sequence"),
    "sequence_mean": ("u = (prod_t {})^(1/length)", "per sequence"),
}


def _ratio_line(score: Score) -> str:
    form, _ = _LEVEL[score.level]
    text = form.format(_ANCHOR[score.anchor])
    if score.bound is not None and score.anchor != "none":
        text += f",  |log u| <= {_number(score.bound)}"
    return text


def _link_line(score: Score) -> str:
    z = _times(score.beta, slope_formula(score.divergence))
    match score.link:
        case Linear():
            return f"-A z,  z = {z}"
        case Importance():
            return f"-A (1 + z),  z = {z}"
        case Clipped(low=low, high=high):
            band = f"1 - {_number(low)}, 1 + {_number(high)}"
            return f"-min(A (1 + z), A clip(1 + z, {band})),  z = {z}"
        case Weighted(weight=Truncate(cap=cap), over=over):
            return f"-sg(min({_ANCHOR[over]}, {_number(cap)})) A z,  z = {z}"
        case Matching(divergence=divergence):
            return (
                f"-phi(r) + V - V',  phi = {phi_formula(divergence)},  r = {z} + V - V'"
            )
        case Logistic():
            return f"-log sigmoid(z_chosen - z_rejected),  z = {z}"
        case Squared(tau=tau):
            return f"(z_chosen - z_rejected - {_half_inverse(tau)})^2,  z = {z}"
    return f"{type(score.link).__name__}(z, A),  z = {z}"


def _signal_line(objective: Objective) -> str:
    match objective.signal:
        case Ones():
            return "A = 1 (demonstrations)"
        case Preference():
            return "chosen and rejected of a group of two"
        case Raw(supervision=s):
            return f"A = r ({s} rewards)"
        case Mean(supervision=s):
            return f"A = r - mean over the group ({s} rewards)"
        case LeaveOneOut():
            return "A = r - mean of the others in the group"
        case ZScore(ddof=ddof, eps=eps, supervision=s):
            scale = f"(std + {_number(eps)}) over the group, ddof {ddof}"
            return f"A = (r - mean)/{scale} ({s} rewards)"
        case BatchZScore(center=center, ddof=ddof, eps=eps):
            scale = f"(batch std + {_number(eps)}), ddof {ddof}"
            return f"A = (r - {center} mean)/{scale}"
    return f"A = {type(objective.signal).__name__}"


def _aggregation_line(objective: Objective) -> str:
    match objective.aggregation:
        case TokenMean():
            return "sum over tokens / tokens of the logical batch"
        case SequenceMean() if isinstance(objective.link, PairLink):
            return "mean over pairs"
        case SequenceMean() if objective.level == "token":
            return "mean over rows of the mean over a row's tokens"
        case SequenceMean():
            return "mean over rows"
        case SequenceSum():
            return "mean over rows of the sum over a row's tokens"
        case Constant(length=length, over=over):
            by = f"(rows x {_number(length)})" if over == "rows" else _number(length)
            return f"sum over tokens / {by}"
    return type(objective.aggregation).__name__


_PENALTY_GRADIENT = {
    "in_reward": "gradient of D_f, sequence level, through the advantage",
    "k1": "zero expected gradient for KL on the policy's own samples",
    "k2": "gradient of D_f with the visited states held fixed",
    "importance_k3": "gradient of D_f with the visited states held fixed",
    "exact": "gradient of D_f with the visited states held fixed",
}


def _penalty_lines(penalty: Penalty) -> dict[str, str]:
    d, w = penalty.divergence, _number(penalty.weight)
    form = {
        "in_reward": f"r -= {w} {slope_formula(d)}, u = prod_t old/ref",
        "k1": f"+ {w} {slope_formula(d)}, u = pi/ref",
        "k2": f"+ {w} K(log u), K' = {slope_formula(d)}, u = pi/ref",
        "k3": f"+ {w} f(u)/u, u = pi/ref",
        "importance_k3": f"+ {w} (pi/old) f(u)/u, u = pi/ref",
        "exact": f"+ {w} sum_a ref f(pi/ref)",
    }[penalty.estimator]
    gradient = _PENALTY_GRADIENT.get(penalty.estimator)
    if gradient is None and isinstance(d, ReverseKL):
        gradient = "gradient of the forward KL(ref || pi)"
    elif gradient is None:
        gradient = "gradient of D_h with h' = f' - f/u, not of D_f"
    return {
        "penalty": f"{form}   [{penalty.estimator} of {type(d).__name__}]",
        "penalty grad": gradient,
    }


def _slope_text(score: Score) -> str:
    """beta u f''(u) = dz/dlog pi as text; "" for 1."""
    match score.divergence:
        case ReverseKL():
            return "" if concrete(score.beta) == 1.0 else _number(score.beta)
        case ForwardKL():
            text = "1/u"
        case JensenShannon():
            text = "1/(1+u)"
        case PearsonChi2():
            text = "2u"
        case NeymanChi2():
            text = "2 u^-2"
        case SquaredHellinger():
            text = "u^-1/2 / 2"
        case Alpha(a=a):
            text = f"u^({_number(-a)})"
        case Jeffreys():
            text = "(1 + 1/u)"
        case Chi2KL():
            text = "(u + 1)"
        case UnitCurvature(divergence=PearsonChi2()):
            text = "u"
        case Shaping(gamma=gamma):
            g = _number(gamma)
            text = f"{g} u/(u + {g})^2"
        case _:
            text = "u f''(u)"
    return _times(score.beta, text)


def _half_inverse(tau) -> str:
    known = concrete(tau)
    return "1/(2 tau)" if known is None else f"{1 / (2 * known):g}"


def _coefficient_line(score: Score) -> str:
    slope, (_, unit) = _slope_text(score), _LEVEL[score.level]
    match score.link:
        case Linear() | Importance():
            factors = ["A", slope]
        case Clipped():
            factors = ["A", slope + ", 0 where A (1 + z) is clipped"]
        case Weighted(weight=Truncate(cap=cap), over=over):
            factors = ["A", f"min({_ANCHOR[over]}, {_number(cap)})", slope]
        case Matching(cap=cap):
            factors = [slope, f"phi'(r), at most {_number(cap)}"]
        case Logistic():
            factors = [f"+-{slope}", "sigmoid(-(z_chosen - z_rejected))"]
        case Squared(tau=tau):
            margin = f"(z_chosen - z_rejected - {_half_inverse(tau)})"
            factors = ["-+2", slope, margin]
        case _:
            factors = ["-dlink/dz", slope]
    if score.level == "sequence_mean":
        factors.append("/ length")
    return " ".join(f for f in factors if f) + f"   ({unit})"


def explain(objective: Objective) -> str:
    """The objective in mathematical notation, line by line, and its coefficient.

    GC is defined by grad L = -sum_it w_it GC_it grad log pi(y_t | s_t), the penalty's
    part left out; `gradient_coefficient` gives the number for a batch.
    """
    lines = {
        "ratio": _ratio_line(objective),
        "loss": _link_line(objective),
        "signal": _signal_line(objective),
    }
    if objective.off_policy is not None:
        lines["off-policy rows"] = (
            f"{_link_line(objective.off_policy)},  {_ratio_line(objective.off_policy)}"
        )
    if isinstance(objective.link, Matching):
        value = {
            "zero": "V = 0",
            "lse": f"V = {_times(objective.beta, 'logsumexp(logits)')}",
            "lsediff": f"V = {_times(objective.beta, '(lse(logits) - lse(ref))')}",
        }
        lines["gauge"] = value[objective.gauge]
    if objective.penalty is not None:
        lines |= _penalty_lines(objective.penalty)
    if objective.entropy_bonus is not None:
        lines["entropy"] = f"- {_number(objective.entropy_bonus)} mean token entropy"
    lines["aggregation"] = _aggregation_line(objective)
    lines["GC"] = _coefficient_line(objective)
    if objective.penalty is not None and objective.penalty.estimator != "in_reward":
        lines["GC"] += ", and the penalty's"
    if objective.off_policy is not None:
        lines["GC off-policy"] = _coefficient_line(objective.off_policy)
    lines["reads"] = ", ".join(sorted(objective.needs))
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines.items())
