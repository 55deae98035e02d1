"""What an objective asks of its data, checked where an experiment is made."""

from __future__ import annotations

from unipost.choices import SIGNALS
from unipost.mixed_groups import Gate, OwnRows
from unipost.mixture import Mixture
from unipost.objective import OWN, Objective
from unipost.objectives import Trainable, terms
from unipost.scalar.model import STREAMS
from unipost.scalar.objective import ScalarObjective
from unipost.signals import Desirability, Ones, Preference, Zeros
from unipost.sources import FIELDS, Source
from unipost.vocabulary import Distillation, Gem, Vocabulary

TRAINING = frozenset({"old", "old_collision", "current", "current_entropy"})
TRAINING |= {"reference", "reference_lse", "reference_vocab", "mismatched"}
"""The fields that training fills itself."""

SOURCES = {
    "demonstrations": "demonstrations",
    "preferences": "preferences or sampled_preferences",
    "labels": "labelled",
    "steps": "labelled_steps",
    "rewards": "rollouts",
    "rewards+replay": "rollouts with guidance: [replay]",
    "rewards+demonstrations": "rollouts with guidance: [demonstration]",
}
"""What a source gives -> the source to write."""

ABSENT = {
    "values": "a critic's values; write critic: {optimizer: ...}, or reinforce_pp for "
    "returns per token without one",
    "margin": "margins of pairs; write columns: {margin: NAME} in data.preferences, or "
    "margin: none",
    "advantage": "advantages computed elsewhere; write a signal of rewards, such as "
    "z_score",
    "importance": "weights computed elsewhere; write sampler_correction",
    "components": "several rewards per response; write reward: {name: sum, parts: ...}",
    "baseline": "the reward of a greedy response; write signal: leave_one_out",
    "reference_rewards": "rewards of the reference's own responses; write signal: mean",
    "text": "the tokens of the prompt too; write on: response",
    "steps": "step rewards and where steps end; write data.supervision: process, or "
    "supervision: outcome in the signal",
    "behavior": "the sampler's log-probs; write rollouts, which sample as they train, "
    "with a sampler that tells them",
    "off_policy": "groups with demonstrations; write guidance: [demonstration]",
    "rewards": "rewards; write rollouts",
}
"""Fields that no source gives, or not this one: what they are, what to write."""
UNKNOWN = "which no source gives; write a source whose `fields` name it"


def check_data(
    objective: Trainable,
    data: Source,
    minibatches: int = 1,
    filled: frozenset[str] = frozenset(),
) -> None:
    """Refuse data that the objective would misread, ignore or miss.

    A signal of one's own decides for itself what rewards mean; it is only told what is
    missing. `filled` are fields of `Batch` that a run fills beside the data, such as a
    critic's values. Raises ValueError, one line.
    """
    if data.gives not in FIELDS:
        raise ValueError(
            f"data: gives {data.gives}; a source gives one of {', '.join(FIELDS)}"
        )
    if "margin" in data.fields - objective.needs:
        raise ValueError(
            "data.columns.margin: the objective reads no margin; leave it out, or "
            "write {name: bradley_terry, margin: column}"
        )
    needs = objective.needs - OWN - set(STREAMS) - TRAINING - data.fields - filled
    _refuse_missing(needs.difference(*FIELDS.values()))
    wanted = _wanted(objective)
    if wanted is not None and data.gives not in wanted:
        # replay is never the only thing wanted
        known = [x for x in SOURCES if x in wanted and x != "rewards+replay"]
        follows = " or ".join(known)
        write = " or ".join(SOURCES[x] for x in known)
        raise ValueError(
            f"data: gives {data.gives}, the objective follows {follows}; write {write}"
        )
    _refuse_missing(needs)
    _check_behavior(objective, data)
    _check_steps(objective, data)
    _check_gates(objective, data)
    if "mismatched" in objective.needs and data.prompts // minibatches < 2:
        raise ValueError(
            f"data.prompts: {data.prompts} in {minibatches} minibatches; the reference "
            "point pairs a prompt with another's response; write 2 or more in each"
        )


def _refuse_missing(names: frozenset[str]) -> None:
    for name in sorted(names):
        raise ValueError(f"objective: needs batch.{name}, {ABSENT.get(name, UNKNOWN)}")


def _check_behavior(objective: Trainable, data: Source) -> None:
    """Refuse a ratio to the behaviour where it is not known: it would be NaN."""
    if not data.unknown_behavior:
        return
    for term in terms(objective):
        if not isinstance(term, Objective) or isinstance(term.signal, OwnRows):
            continue
        where = "anchor" if term.off_policy is None else "off_policy.anchor"
        score = term if term.off_policy is None else term.off_policy
        if score.anchor == "behavior":
            raise ValueError(
                f"objective.{where}: behavior, but nobody knows at which log-probs the "
                "demonstrations were written; write none (probability 1), or "
                "guidance: [{name: demonstration, behavior: FOLDER}]"
            )


def _check_gates(objective: Trainable, data: Source) -> None:
    """Refuse a gate that no group passes: it counts rows that the policy samples."""
    own = getattr(data, "own", None)
    for k, term in enumerate(terms(objective)):
        gate = getattr(getattr(term, "signal", None), "gate", None)
        if isinstance(gate, Gate) and isinstance(own, int) and gate.most >= own:
            where = f"terms.{k}." if isinstance(objective, Mixture) else ""
            raise ValueError(
                f"objective.{where}signal.gate.most: {gate.most} of {own} rows that "
                "the policy samples, so that every group fails; write a smaller number"
            )


def _check_steps(objective: Trainable, data: Source) -> None:
    """Refuse rewards of steps for an objective that reads one per response."""
    if "steps" in data.fields and "steps" not in objective.needs:
        raise ValueError(
            "data.supervision: process gives rewards of steps, the objective reads one "
            "per response; write supervision: process in its signal too, or "
            "data.supervision: outcome"
        )


def _wanted(objective: Trainable) -> frozenset[str] | None:
    """What the source may give; None: anything. Raises where terms disagree."""
    if isinstance(objective, ScalarObjective):
        return objective.follows or None
    wanted: frozenset[str] | None = None
    for term in terms(objective):
        own = _of_term(term)
        if own is None:
            continue
        both = own if wanted is None else own & wanted
        if wanted is not None and not both:
            first, second = (" or ".join(sorted(x)) for x in (wanted, own))
            raise ValueError(
                f"objective.terms: one follows {first}, another {second}; write "
                "signal: chosen to imitate the chosen responses of preferences"
            )
        wanted = both
    return wanted


def _of_term(term: Objective | Vocabulary) -> frozenset[str] | None:
    if isinstance(term, Gem):
        return frozenset({"demonstrations"})
    if isinstance(term, Distillation):  # on given responses, or on its own
        return frozenset({"demonstrations", "rewards", "rewards+replay"})
    if isinstance(term, Vocabulary) or type(term.signal) not in SIGNALS.values():
        return None
    if isinstance(term.signal, Zeros):
        return None
    if isinstance(term.signal, Preference):
        return frozenset({"preferences"})
    if isinstance(term.signal, Desirability):
        return frozenset({"labels", "preferences", "rewards", "rewards+replay"})
    if "off_policy" in term.needs:
        return frozenset({"rewards+demonstrations", "rewards+replay"})
    if isinstance(term.signal, Ones):
        return frozenset({"demonstrations"})
    return frozenset({"rewards", "rewards+replay"})
