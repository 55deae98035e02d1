"""An objective as statements, one a line: name, formula, what it leaves open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from unipost.explain import parts
from unipost.explain.divergences import of_divergence
from unipost.explain.expression import Expression, formula, text
from unipost.explain.expression import latex as spelled
from unipost.explain.links import Definition, LinkFormula, of_link
from unipost.explain.spelling import prose
from unipost.links import Weighted
from unipost.mixed_groups import content
from unipost.objective import Objective
from unipost.pair_links import MarginLink, PairLink
from unipost.parts import concrete
from unipost.penalties import Penalty
from unipost.ratios import GeometricClip, LengthDesensitised
from unipost.score import Score
from unipost.signals import Chosen, Ones
from unipost.vocabulary import Distillation, Gem, Vocabulary


class Statement(NamedTuple):
    """One line: `left` = `expression`, where ..., note; words alone have no expression.

    `left` is printed in text only where `named`; LaTeX always has it.
    """

    name: str
    left: str
    expression: Expression | None
    note: str = ""
    where: tuple[Definition, ...] = ()
    named: bool = True

    def text(self) -> str:
        """The line without its name."""
        found = [f"{left} = {text(x)}" for left, x in self.where]
        if self.expression is not None:
            head = f"{self.left} = " if self.named and self.left else ""
            found.insert(0, head + text(self.expression))
        note = f"   ({self.note})" if self.note and found else self.note
        return ",  ".join(found) + note

    def latex(self) -> str:
        """The line as a row of an aligned environment."""
        left = spelled(formula(self.left))
        if self.expression is None:
            return f"{left} &: {prose(self.note)}"
        # a score's second set of lines has the same symbols
        whose = "off-policy rows" if self.name.startswith("off-policy") else ""
        words = "; ".join(filter(None, [whose, self.note]))
        note = rf" \quad {prose(words)}" if words else ""
        found = [f"{left} &= {spelled(self.expression)}"]
        found += [f"{spelled(formula(k))} = {spelled(x)}" for k, x in self.where]
        return r", \;\; ".join(found) + note


def _said(name: str, left: str, said: parts.Said, note: str = "") -> Statement:
    notes = "; ".join(filter(None, [said.note, note]))
    return Statement(name, left, said.expression, notes, said.where)


UNITS = {
    "token": "per token",
    "sequence": "per sequence",
    "sequence_mean": "per sequence",
}


def _base(score: Score) -> Expression:
    """u in formulas: pi itself where there is no anchor, else its symbol."""
    bare = score.anchor == "none" and score.level == "token" and score.ratio is None
    return formula("pi" if bare else "u")


def reward(score: Score) -> Expression:
    """The implicit reward z in terms of u."""
    z = formula("beta*x", beta=score.beta, x=of_divergence(score.divergence, "slope"))
    if isinstance(score, Objective) and score.reference_point is not None:
        slope = of_divergence(score.divergence, "slope")
        z = formula("beta*(x - z_0)", beta=score.beta, x=slope)
    if getattr(score, "gauge", "zero") == "vocabulary":
        z = formula("sum_t(x - c_t)", x=z)
    elif getattr(score, "gauge", "zero") != "zero":
        z = formula("x + V_t - V_next", x=z)
    if score.per == "length":
        z = formula("x/n", x=z)
    return formula(z, u=_base(score))


def _weight(score: Score) -> tuple[Expression, Statement | None]:
    """The weight of a `Weighted` link, and its ratio where that is no token's."""
    link = score.link
    if not isinstance(link, Weighted):
        return formula("w"), None
    level = score.level if link.level == "own" else link.level
    ratio = parts.of_ratio(link.over, level)
    inline = level == "token"
    v = ratio if inline else formula("v")
    said = parts.of_weight(link.weight, v, link.over)
    if said.expression is None:
        return formula("w"), _said("weight", "w", said)
    return said.expression, None if inline else Statement("weight", "v", ratio)


def _linked(score: Score, signal: Expression) -> tuple[LinkFormula, Statement | None]:
    weight, line = _weight(score)
    return of_link(score.link, reward(score), weight, signal), line


def _signal(objective: Objective) -> Expression:
    one = isinstance(content(objective.signal), Ones | Chosen)
    return formula("1" if one else "A")


def _corrected(objective: Objective) -> Expression:
    """The product of the corrections: 1, c, or c_1 c_2 ..."""
    count = len(objective.corrections)
    names = ["c"] if count == 1 else [f"c_{k}" for k in range(1, count + 1)]
    return formula("*".join(names) or "1")


def score_lines(
    score: Score, signal: Expression, corrected: Expression, prefix: str = ""
) -> Iterator[Statement]:
    """Ratio, treatment, implicit reward, weight and loss of one score."""
    unit = "u_t" if score.level == "token" else "u"
    bound = score.bound if score.anchor not in ("none", "self") else None
    note = "" if bound is None else f"|log u| at most {text(formula('b', b=bound))}"
    ratio = parts.of_ratio(score.anchor, score.level)
    yield Statement(f"{prefix}ratio", unit, ratio, note)
    if score.ratio is not None:
        said = parts.of_treatment(score.ratio)
        yield _said(f"{prefix}treatment", "log(u_t)", said, "before the level is taken")
    yield Statement(f"{prefix}reward", "z", reward(score))
    found, weight = _linked(score, signal)
    if weight is not None:
        yield weight._replace(name=prefix + weight.name)
    loss = formula("c*x", c=corrected, x=found.loss)
    pair = isinstance(score.link, PairLink)
    unit = "per pair" if pair else UNITS[score.level]
    note = "; ".join(filter(None, [unit, found.note]))
    yield Statement(f"{prefix}loss", "loss", loss, note, found.where, False)


def coefficient_lines(
    score: Score, signal: Expression, corrected: Expression, prefix: str = ""
) -> Iterator[Statement]:
    """GC in symbols: gain of the link times dz/dlog pi."""
    found, _ = _linked(score, signal)
    slope = of_divergence(score.divergence, "curve")
    shorter = score.level == "sequence_mean" or score.per == "length"
    source = "beta*gain*c*slope/n" if shorter else "beta*gain*c*slope"
    note = found.gain_note
    if isinstance(score.ratio, GeometricClip):
        note = "0 on clipped tokens"
    if isinstance(score.ratio, LengthDesensitised):
        note = text(formula("x", x=score.ratio.share)) + " times this beyond n_min"

    def coefficient(gain: Expression, u: Expression) -> Expression:
        factors = {"gain": gain, "c": corrected, "slope": formula(slope, u=u)}
        return formula(source, beta=score.beta, **factors)

    name = f"{prefix}GC"
    if found.rejected is None:
        value = coefficient(found.gain, _base(score))
        yield Statement(name, "GC", value, note, named=False)
        return
    chosen = coefficient(found.gain, formula("u_w"))
    rejected = coefficient(found.rejected, formula("u_l"))
    if isinstance(score.link, MarginLink) and "u_" not in text(chosen):
        rejected = formula("-GC_w")
    yield Statement(name, "GC_w", chosen, note, (("GC_l", rejected),))


def _penalty_line(penalty: Penalty, token_rewards: bool) -> Statement:
    """What the penalty adds to the loss, or takes from the reward."""
    named = f"{penalty.estimator} of {type(penalty.divergence).__name__}"
    if penalty.gradient != "own":
        named += f", gradient of {penalty.gradient}"
    value = parts.penalty_value(penalty)
    if penalty.estimator == "in_reward":
        level = "token" if token_rewards else "sequence"
        v = formula(parts.LEVELS[level], x=formula("old/ref"))
        cost = formula("r - x", x=value)
        note = f"instead of r; {named}"
        return Statement("penalty", "r_penalised", cost, note, (("v", v),), False)
    level = "token" if penalty.estimator == "exact" else penalty.level
    v = parts.of_ratio("reference", level)
    if penalty.estimator == "exact":
        v = formula("pi_a/ref_a")
    note = f"added; {named}"
    return Statement("penalty", "penalty", value, note, (("v", v),), False)


GAUGES = {
    "lse": "beta*logsumexp(logits)",
    "lsediff": "beta*(logsumexp(logits) - logsumexp(logits_ref))",
    "vocabulary": "beta*E_ref(conjugate(f1(u)))",
}


def objective_lines(objective: Objective) -> Iterator[Statement]:
    """Every statement of an objective up to its coefficient."""
    signal, corrected = _signal(objective), _corrected(objective)
    yield from score_lines(objective, signal, corrected)
    if objective.off_policy is not None:
        yield from score_lines(objective.off_policy, signal, corrected, "off-policy ")
    for k, correction in enumerate(objective.corrections, 1):
        left = "c" if len(objective.corrections) == 1 else f"c_{k}"
        yield _said("correction", left, parts.of_correction(correction), "detached")
    if objective.reference_point is not None:
        yield _said("measured from", "z_0", parts.of_point(objective.reference_point))
    if objective.gauge != "zero":
        value = formula(GAUGES[objective.gauge], beta=objective.beta)
        left = "c_t" if objective.gauge == "vocabulary" else "V_t"
        yield Statement("gauge", left, value, objective.gauge)
    yield _said("signal", "A", parts.of_signal(objective.signal))
    penalty = objective.penalty
    if penalty is not None:
        yield _penalty_line(penalty, objective.signal.token_rewards)
    if (bonus := objective.entropy_bonus) is not None:
        value = formula("-b*mean_it(H)", b=bonus)
        note = "added; H the entropy of pi at a token"
        yield Statement("entropy", "entropy", value, note, named=False)
    pair = isinstance(objective.link, PairLink)
    unit = "pair" if pair else "token" if objective.level == "token" else "row"
    yield _said("aggregation", "L", parts.of_aggregation(objective.aggregation, unit))
    yield from coefficient_lines(objective, signal, corrected)
    if objective.off_policy is not None:
        yield from coefficient_lines(
            objective.off_policy, signal, corrected, "off-policy "
        )
    if penalty is not None and (gc := parts.penalty_coefficient(penalty)) is not None:
        yield Statement("penalty GC", "GC_penalty", gc, "added", named=False)


def vocabulary_lines(objective: Vocabulary) -> Iterator[Statement]:
    """The statements of an objective over the whole vocabulary."""
    gc, where = None, ()
    match objective:
        case Gem(beta=beta, h=h):
            h_k = "1" if h == "linear" else "sg(sigmoid(log(pi_k/pi_y)/100))"
            q = formula("sg(softmax(log(pi)/beta))", beta=beta)
            loss = formula("sum_k(q_k*h_k*log(pi_k/pi_y))", h_k=formula(h_k))
            one = "1" if h == "linear" else "sum_a(q_a*h_a)"
            values = {"x": formula(one), "h_k": formula(h_k)}
            gc = formula("indicator(k == y)*x - q_k*h_k", **values)
            yield Statement("ratio", "q", q, "the tempered policy")
            yield Statement("loss", "loss", loss, "per state, y the token", named=False)
        case Distillation(divergence=f, temperature=t):
            tempered = [formula(f"softmax(log({p})/T)", T=t) for p in ("pi", "teacher")]
            plain = concrete(t) == 1.0
            p, q = (formula("pi"), formula("teacher")) if plain else tempered
            u, both = formula("u_k"), (("p", p), ("q", q))
            yield Statement("ratio", "u_k", formula("p_k/q_k"), "", both)
            value = formula("sum_k(q_k*f)", f=formula(of_divergence(f, "f"), u=u))
            yield Statement("loss", "loss", value, "per state", named=False)
            where = (("s_k", formula(of_divergence(f, "slope"), u=u)),)
            gc = formula("p_k/T*(sum_a(p_a*s_a) - s_k)", T=t)
        case _:
            said = parts.own(objective)
            yield _said("ratio", "u", parts.Said(None, "the whole vocabulary"))
            yield _said("loss", "loss", said)
    words = "demonstrations" if isinstance(objective, Gem) else "every state"
    yield Statement("signal", "A", formula("1"), words)
    said = parts.of_aggregation(objective.aggregation, "token")
    yield _said("aggregation", "L", said)
    note = "on log pi_k of the vocabulary; they add up to 0"
    yield Statement("GC", "GC_k", gc, note, where)
