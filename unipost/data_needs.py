"""What an objective asks of its data, checked where an experiment is made."""

from __future__ import annotations

from unipost.choices import SIGNALS
from unipost.corrections import SamplerCorrection
from unipost.objective import OWN, Objective
from unipost.objectives import AnyObjective, terms
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
    "rewards": "rollouts",
    "rewards+demonstrations": "rollouts with demonstrations: 1",
}
"""What a source gives -> the source to write."""

ABSENT = {
    "values": "a critic's values, and no critic is trained; write grpo, or "
    "reinforce_pp for returns per token",
    "advantage": "advantages computed elsewhere; write a signal of rewards, such as "
    "z_score",
    "importance": "weights computed elsewhere; write sampler_correction",
    "components": "several rewards per response; write one reward that adds them up",
    "baseline": "the reward of a greedy response; write signal: leave_one_out",
    "reference_rewards": "rewards of the reference's own responses; write signal: mean",
    "text": "the tokens of the prompt too; write on: response",
    "steps": "step rewards and where steps end; write supervision: outcome",
    "behavior": "the sampler's log-probs; write rollouts, which sample as they train, "
    "with a sampler that tells them",
    "off_policy": "groups with demonstrations; write rollouts with demonstrations: 1",
    "rewards": "rewards; write rollouts",
}
"""Fields that no source gives, or not this one: what they are, what to write."""
UNKNOWN = "which no source gives; write a source whose `fields` name it"


def check_data(objective: AnyObjective, data: Source, minibatches: int = 1) -> None:
    """Refuse data that the objective would misread, ignore or miss.

    A signal of one's own decides for itself what rewards mean; it is only told what is
    missing. Raises ValueError, one line.
    """
    if data.gives not in FIELDS:
        raise ValueError(
            f"data: gives {data.gives}; a source gives one of {', '.join(FIELDS)}"
        )
    needs = objective.needs - OWN - TRAINING - data.fields
    _refuse_missing(needs.difference(*FIELDS.values()))
    wanted = _wanted(objective)
    if wanted is not None and data.gives not in wanted:
        follows = " or ".join(x for x in SOURCES if x in wanted)
        write = " or ".join(SOURCES[x] for x in SOURCES if x in wanted)
        raise ValueError(
            f"data: gives {data.gives}, the objective follows {follows}; write {write}"
        )
    _refuse_missing(needs)
    _check_corrections(objective, data.gives)
    if "mismatched" in objective.needs and data.prompts // minibatches < 2:
        raise ValueError(
            f"data.prompts: {data.prompts} in {minibatches} minibatches; the reference "
            "point pairs a prompt with another's response; write 2 or more in each"
        )


def _refuse_missing(names: frozenset[str]) -> None:
    for name in sorted(names):
        raise ValueError(f"objective: needs batch.{name}, {ABSENT.get(name, UNKNOWN)}")


def _check_corrections(objective: AnyObjective, gives: str) -> None:
    if gives != "rewards+demonstrations":
        return
    for term in terms(objective):
        parts = term.corrections if isinstance(term, Objective) else ()
        if any(isinstance(part, SamplerCorrection) for part in parts):
            raise ValueError(
                "objective.corrections: sampler_correction on demonstrations, whose "
                "sampler's log-probs are not known; leave it out"
            )


def _wanted(objective: AnyObjective) -> frozenset[str] | None:
    """What the source may give; None: anything. Raises where terms disagree."""
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
        return frozenset({"demonstrations", "rewards"})
    if isinstance(term, Vocabulary) or type(term.signal) not in SIGNALS.values():
        return None
    if isinstance(term.signal, Zeros):
        return None
    if isinstance(term.signal, Preference):
        return frozenset({"preferences"})
    if isinstance(term.signal, Desirability):
        return frozenset({"labels", "preferences", "rewards"})
    if isinstance(term.signal, Ones):
        return frozenset({"demonstrations"})
    mixed = term.off_policy is not None
    return frozenset({"rewards+demonstrations" if mixed else "rewards"})
