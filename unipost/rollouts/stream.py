"""One step of rollouts: ask, sample, guide, grade, choose groups, remember."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unipost.batch import Batch
from unipost.model import Params
from unipost.profiling import phase
from unipost.rewards import Grader
from unipost.rollouts import draws
from unipost.rollouts import numbers as measures
from unipost.rollouts.drawn import (
    Drawn,
    Texts,
    joined,
    no_texts,
    side_by_side,
    without,
)
from unipost.rollouts.grading import Graded, graded, shuffled
from unipost.rollouts.groups import Filling, Keep, begun, filled
from unipost.rollouts.guidance import Guide, Turn
from unipost.rollouts.order import Outcome, Place
from unipost.rollouts.questions import Questions
from unipost.sampling import Engine, as_samples
from unipost.sources import EMPTY, Experience, Memory, Setting, named, part_of
from unipost.update import Rows

if TYPE_CHECKING:
    from unipost.rollouts.source import Rollouts


class Chosen(NamedTuple):
    """The groups of a batch, all that were drawn for it, and what is reported."""

    batch: Drawn
    graded: Graded
    outcome: Outcome
    numbers: dict[str, float]


@dataclass(frozen=True)
class Rolled:
    """An opened source of rollouts."""

    source: Rollouts
    setting: Setting
    questions: Questions
    engine: Engine
    guides: tuple[Guide, ...]
    grader: Grader

    @property
    def size(self) -> int:
        """Questions that it draws from."""
        return self.questions.size

    def close(self) -> None:
        """End what the reward holds."""
        self.grader.close()

    def batch(self, step: int, params: Params, memory: Memory = EMPTY) -> Experience:
        """The experience of a step: see `unipost.sources.Stream`."""
        kept = [self._of_guide(i, memory) for i in range(len(self.guides))]
        for i, own in enumerate(kept):
            claimed = self.guides[i].claims(own)
            if claimed is not None:
                return self._claimed(i, Turn(step, 0, claimed, params), memory, kept)
        asked = np.zeros(0, np.int64)
        order = part_of(memory, "order")
        place = Place(self.setting.seed, step, 0, self.source.prompts, asked)
        chosen = self._rounds(place, params, order, kept)
        drawn, names = chosen.graded.drawn, chosen.graded.names
        right = measures.right(drawn, names)
        after = {
            str(i): guide.remember(step, drawn, right, own)
            for i, (guide, own) in enumerate(zip(self.guides, kept, strict=True))
        }
        rule = self.source.order
        after["order"] = rule.remember(self.questions, place, chosen.outcome, order)
        return self._experience(step, chosen, kept, after)

    def _of_guide(self, i: int, memory: Memory) -> Memory:
        return part_of(memory, str(i)) or self.guides[i].start()

    def _rounds(self, place: Place, params, order: Memory, kept) -> Chosen:
        """Rounds of questions until every place of the batch has a group."""
        source, rule = self.source, self.source.groups
        rounds, filling = [], None
        for number in range(rule.tries):
            place = place._replace(round=number)
            index = source.order.draw(self.questions, place, order)
            place = place._replace(asked=np.concatenate([place.asked, index]))
            found = self._drawn(Turn(place.step, number, index, params), kept)
            rounds.append(found)
            fits = rule.kept(found.drawn, source.own)
            if filling is None:
                filling = begun(found.drawn, fits)
            else:
                filling = filled(filling, found.drawn, fits, number)
            if not len(filling.empty):
                break
        assert filling is not None
        whole = _whole(rounds)
        told = self._told(rule.kept(whole.drawn, source.own), len(rounds), filling)
        share = measures.success(whole.drawn, whole.names, source.own)
        outcome = Outcome(filling.used, whole.drawn.index, share)
        return Chosen(self._emptied(filling), whole, outcome, told)

    def _emptied(self, filling: Filling) -> Drawn:
        gone = np.zeros(filling.batch.rewards.shape, bool)
        gone[filling.empty] = True
        return without(filling.batch, gone, self.setting.tokenizer.pad_token)

    def _told(self, kept: np.ndarray, rounds: int, filling: Filling):
        """What is said of the groups that were and were not kept."""
        if isinstance(self.source.groups, Keep):
            return {}
        told = {"dropped_groups": float((~kept).sum())}
        if self.source.groups.tries > 1:
            told |= {"rounds": float(rounds), "prompts_drawn": float(len(kept))}
            told["absent_groups"] = float(len(filling.empty))
        return told

    def _drawn(self, turn: Turn, kept: list[Memory]) -> Graded:
        """The graded groups of one round."""
        parts = [self._sampled(turn)]
        pairs = zip(self.guides, kept, strict=True)
        parts += [guide.texts(turn, own) for guide, own in pairs]
        found = self._graded(turn.index, side_by_side(parts))
        if self.source.rewards == "graded":
            return found
        numbers = (turn.step,) if turn.round == 0 else (turn.step, turn.round)
        moved = shuffled(found.drawn, self.setting.seed, draws.SHUFFLE, *numbers)
        return found._replace(drawn=moved)

    def _sampled(self, turn: Turn) -> Texts:
        """The policy's own responses; the id of row (p, g) is p * own + g."""
        source, own = self.source, self.source.own
        budget = source.sampling.max_tokens
        requests = [
            self.questions.request(i, range(row * own, (row + 1) * own), budget)
            for row, i in enumerate(turn.index)
        ]
        where = (draws.RESPONSES, turn.step)
        if turn.round:
            where = (draws.ROUNDS, turn.step, turn.round)
        key = draws.key(self.setting.seed, *where)
        with phase("generate"):
            completions = self.engine(turn.params, requests, key)
        pad = self.setting.tokenizer.pad_token
        drawn = as_samples(completions, budget, pad)
        tokens, mask, logps, finished = (np.asarray(x) for x in drawn)
        return Texts(tokens, mask, logps, np.zeros(mask.shape, bool), finished)

    def _graded(self, index: np.ndarray, texts: Texts) -> Graded:
        process = self.source.supervision == "process"
        names = self.source.components
        with phase("grade"):
            return graded(self.grader, self.questions, index, texts, names, process)

    def _claimed(self, i: int, turn: Turn, memory: Memory, kept) -> Experience:
        """A step that guide i has claimed: its rows alone, no group is chosen."""
        source, pad = self.source, self.setting.tokenizer.pad_token
        length, count = source.sampling.max_tokens, len(turn.index)
        shown, after = self.guides[i].claimed(turn, kept[i])
        rows = [source.own, *(part.count for part in source.guidance)]
        dtype = shown.behavior.dtype
        parts = [no_texts(count, n, length, pad, dtype) for n in rows]
        parts[i + 1] = shown
        found = self._graded(turn.index, side_by_side(parts))
        none = Outcome(0, turn.index, np.full(count, np.nan))
        no_rounds = Filling(found.drawn, turn.index[:0], 0)
        told = self._told(np.zeros(0, bool), 0, no_rounds)
        chosen = Chosen(found.drawn, found, none, told)
        memories = {str(j): own for j, own in enumerate(kept)} | {str(i): after}
        memories["order"] = part_of(memory, "order")
        return self._experience(turn.step, chosen, kept, memories)

    def _experience(
        self, step: int, chosen: Chosen, kept, after: Mapping[str, Memory]
    ) -> Experience:
        drawn, source = chosen.graded.drawn, self.source
        told = measures.numbers(chosen.graded, source.own) | chosen.numbers
        start = source.own
        for part, guide, own in zip(source.guidance, self.guides, kept, strict=True):
            rows = slice(start, start + part.count)
            texts = Texts(*(x[:, rows] for x in drawn.texts))
            told |= guide.numbers(step, drawn.index, texts, own)
            start += part.count
        if source.guidance:
            told["reward_guidance"] = measures.guided(drawn, source.own)
        rows, batch = as_batch(source, self.questions, chosen.batch)
        return Experience(rows, batch, told, named(after), source.components)


def as_batch(
    source: Rollouts, questions: Questions, drawn: Drawn
) -> tuple[Rows, Batch]:
    """Groups as training takes them."""
    texts, group = drawn.texts, source.group
    asked: Any = [
        np.repeat(x[drawn.index][:, None], group, 1) for x in questions.tokens[:2]
    ]
    tokens: Any = texts.tokens
    mask: Any = texts.mask
    rows = Rows(asked[0], asked[1], tokens, mask)
    off: Any = texts.off
    # one flag per row says it all unless a row is off-policy in part
    if not any(part.partial for part in source.guidance):
        off = off.any(-1)
    fields: dict[str, Any] = {"rewards": drawn.rewards.astype(np.float32)}
    if source.supervision == "process":
        fields["steps"] = np.isfinite(drawn.steps).astype(np.float32)
        fields["rewards"] = np.nan_to_num(drawn.steps).astype(np.float32)
    if source.components:
        fields["components"] = drawn.components.astype(np.float32)
    if source.truncated == "masked":
        cut = texts.present & ~texts.finished
        fields["weight"] = (~cut).astype(np.float32)
    if "behavior" in source.fields:
        fields["behavior"] = texts.behavior
    return rows, Batch(mask=mask, off_policy=off, **fields)


def _whole(rounds: list[Graded]) -> Graded:
    notes: dict[str, int] = {}
    for found in rounds:
        for name, count in found.notes.items():
            notes[name] = notes.get(name, 0) + count
    drawn = joined([found.drawn for found in rounds])
    return Graded(drawn, rounds[0].names, notes)
