"""A model's own solutions with a label on every step and one of the outcome, as rows.

What reward models are trained on: from `labels` a process reward model, from `outcome`
an outcome reward model on the same solutions (2305.20050, sections 2.5 and 2.6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from unipost.rewards import Grades, Reward, Sample, open_reward
from unipost.rewards.learned import split_at
from unipost.rollouts.questions import open_questions
from unipost.rollouts.rejection import sampled
from unipost.sampling import BatchSampler, Sampler, Sampling
from unipost.sources import OnBadRow, Setting, TooLong
from unipost.wording import Wording


@dataclass(frozen=True)
class Labelling:
    """What is sampled of every question of a file, and what labels its steps.

    reward     gives a value for each response and each of its steps
    samples    responses drawn per question, `prompts` questions at a time
    threshold  a step, and a response, is right from this reward on
    separator  what ends a step in a response
    limit      only the first so many questions; None: all
    time_limit seconds that a reward may take for a sample (None: no limit)
    """

    path: str
    prompt_length: int
    sampling: Sampling
    reward: Reward
    samples: int = 8
    prompts: int = 16
    threshold: float = 1.0
    separator: str = "\n"
    limit: int | None = None
    time_limit: float | None = 5.0
    sampler: Sampler = BatchSampler()
    stop: tuple[str, ...] = ()
    columns: dict[str, str] = field(default_factory=dict)
    wording: Wording | None = None
    too_long: TooLong = "raise"
    on_bad_row: OnBadRow = "raise"

    def __post_init__(self):
        for name in ("samples", "prompts", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value}; write 1 or more")
        if not self.separator:
            raise ValueError("separator: empty; write what ends a step")


class Labelled(NamedTuple):
    """Rows for `labelled_steps` to write as JSONL, and counts.

    rows     {prompt, steps, labels, outcome}: 1 for right, -1 for wrong, null for a
             step that the reward leaves out; outcome repeats that of the response for
             every step, so that it can be read in place of labels
    numbers  questions, sampled, right, unscored (left out, with those without a step),
             kept; steps_right: share of the labelled steps
    """

    rows: list[dict[str, Any]]
    numbers: dict[str, float]


def label_steps(setting: Setting, labelling: Labelling) -> Labelled:
    """Sample and label: a function of its arguments and `setting.seed` alone.

    Raises DataError for the file; ValueError, one line, for a reward without steps,
    one whose steps end elsewhere than at the separator, and where no row is left.
    """
    questions = open_questions(
        labelling.path,
        setting.tokenizer,
        labelling.prompt_length,
        labelling.sampling.max_tokens,
        stop=labelling.stop,
        columns=labelling.columns,
        wording=labelling.wording,
        too_long=labelling.too_long,
        on_bad_row=labelling.on_bad_row,
    )
    rows: list[dict[str, Any]] = []
    asked = drawn = right = 0
    with open_reward(labelling.reward, labelling.time_limit) as grader:
        for samples in sampled(setting, labelling, questions):
            grades = grader(samples)
            made = rows_of(samples, grades, labelling)
            rows += made
            asked, drawn = asked + 1, drawn + len(samples)
            right += sum(row["outcome"][0] == 1 for row in made)
    if not rows:
        raise ValueError(
            f"{labelling.path}: none of {drawn} responses has a step that is labelled; "
            "write another separator or reward"
        )
    labels = [x for row in rows for x in row["labels"] if x is not None]
    numbers = {
        "questions": asked,
        "sampled": drawn,
        "right": right,
        "unscored": drawn - len(rows),
        "kept": len(rows),
        "steps_right": labels.count(1) / len(labels),
    }
    return Labelled(rows, {name: float(x) for name, x in numbers.items()})


def rows_of(
    samples: Sequence[Sample], grades: Grades, labelling: Labelling
) -> list[dict[str, Any]]:
    """The rows of graded samples; those unscored or without a labelled step left out.

    Raises ValueError as `label_steps`.
    """
    if grades.steps is None:
        raise ValueError("reward: gives no steps to label; write one that does")
    rows, least = [], labelling.threshold
    for sample, value, steps in zip(samples, grades.values, grades.steps, strict=True):
        spans = split_at(sample.response, labelling.separator)
        known = dict(steps)
        odd = sorted(known.keys() - {end for _, end in spans})
        if odd:
            raise ValueError(
                f"separator: {labelling.separator!r}, but the reward ends a step at "
                f"{odd[0]} of {sample.response!r}; write the reward's own"
            )
        if not known:
            continue
        labels = [_label(known.get(end), least) for _, end in spans]
        steps_text = [sample.response[a:b] for a, b in spans]
        row = {"prompt": sample.prompt, "steps": steps_text, "labels": labels}
        rows.append(row | {"outcome": [_label(float(value), least)] * len(spans)})
    return rows


def _label(value: float | None, least: float) -> int | None:
    if value is None:
        return None
    return 1 if value >= least else -1
