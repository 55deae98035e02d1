"""Sources of experience: where a step's rows and signals come from.

A source is configuration; `open` reads its file and gives a `Stream`, whose `batch`
is a pure function of (step, parameters, memory): a resumed run needs no other state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

import jax
import numpy as np

from unipost.batch import Batch
from unipost.chat import TrainOn
from unipost.data import Tokens, batch_indices, encode_rows, read_rows
from unipost.mesh import Layout
from unipost.model import Params, Policy
from unipost.rows import Kind
from unipost.tokenizer import Tokenizer
from unipost.update import Rows
from unipost.wording import Wording

TooLong = Literal["raise", "drop", "truncate"]
OnBadRow = Literal["raise", "skip"]
Varies = Literal["never", "seed", "step"]
VARIES: tuple[Varies, ...] = ("never", "seed", "step")


FIELDS: dict[str, frozenset[str]] = {
    "demonstrations": frozenset(),
    "preferences": frozenset({"rewards"}),
    "labels": frozenset({"rewards"}),
    "steps": frozenset({"rewards", "steps"}),
    "rewards": frozenset({"rewards", "behavior"}),
    "rewards+replay": frozenset({"rewards", "behavior", "off_policy"}),
    "rewards+demonstrations": frozenset({"rewards", "behavior", "off_policy"}),
}
"""What a source gives -> the fields of `Batch` that it fills beside the mask."""


Memory = Mapping[str, np.ndarray]
"""What a stream must remember from one step to the next, by name."""
EMPTY: Memory = MappingProxyType({})


class Experience(NamedTuple):
    """One logical batch: rows [P, G, ...], their data, and numbers to report.

    The arrays are the host's, equal in every process; the loop puts them on devices.
    memory      what the stream is given with the next step
    components  names of the rewards in `batch.components` [P, G, K]
    """

    rows: Rows
    batch: Batch
    metrics: dict[str, float]
    memory: Memory = EMPTY
    components: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """What a source needs of its run: the policy, its first parameters, the seed.

    The parameters are for `open` to read: a run may overwrite them as it goes on. They
    are spread as `mesh` says, None for one device.
    """

    policy: Policy
    params: Params
    tokenizer: Tokenizer
    seed: int
    mesh: Layout | None = None


class Stream(Protocol):
    """An opened source."""

    @property
    def size(self) -> int:
        """The number of groups that it draws from; an epoch is as many."""
        ...

    def batch(self, step: int, params: Params, memory: Memory = EMPTY) -> Experience:
        """The experience of 0-based `step`, given parameters of the policy.

        A pure function of its arguments: `memory` is that of the step before, empty at
        the first. Steps are asked for in order, maybe from another thread.
        """
        ...


class Source(ABC):
    """Configuration of a source: `path` is the file it reads, `prompts` its batch."""

    path: str
    prompts: int

    @property
    def paths(self) -> tuple[str, ...]:
        """Every file that it reads."""
        return (self.path,)

    @property
    @abstractmethod
    def gives(self) -> str:
        """A key of FIELDS: what its rows are."""

    @property
    def fields(self) -> frozenset[str]:
        """The fields of `Batch` that it fills; a source of one's own may fill more."""
        return FIELDS[self.gives]

    @property
    def unknown_behavior(self) -> bool:
        """Whether `batch.behavior` is NaN on some rows, such as demonstrations."""
        return False

    @property
    def varies(self) -> Varies:
        """With what its rows change beside the files; their order does not matter."""
        return "never"

    @property
    def rows(self) -> int:
        """Rows of a group, the G of its batches."""
        return 1

    @abstractmethod
    def open(self, setting: Setting) -> Stream:
        """Read and tokenise the file. Raises DataError naming file, line, reason."""


@dataclass(frozen=True)
class Fixed:
    """A stream over rows that do not depend on the parameters.

    `rewards` [N] or [N, T] are those of the lines, None where a line has none.
    `streams` [N, T] or [N] are other fields of `Batch` by name, such as log-probs of
    the lines where they are known.
    """

    tokens: Tokens
    prompts: int
    group: int
    seed: int
    rewards: np.ndarray | None = None
    streams: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return len(self.tokens.prompt) // self.group

    def batch(self, step: int, params: Params, memory: Memory = EMPTY) -> Experience:
        index = batch_indices(self.seed, step, self.prompts, self.size)
        lines = index[:, None] * self.group + np.arange(self.group)
        arrays: list[Any] = [x[lines] for x in self.tokens[:4]]
        rows = Rows(*arrays, packed=None)
        rewards, trained = self.rewards, self.tokens.trained
        given: Any = None if rewards is None else rewards[lines].astype(np.float32)
        # all of the response is context, only what is trained on counts
        mask: Any = rows.response_mask if trained is None else trained[lines]
        streams: dict[str, Any] = {k: x[lines] for k, x in self.streams.items()}
        return Experience(rows, Batch(mask=mask, rewards=given, **streams), {})


@dataclass(frozen=True)
class Demonstrations(Source):
    """Prompts with responses to imitate: groups of one.

    prompts is the batch; prompt_length and response_length are in tokens, the end
    token included. `columns` renames the file's columns, {completion: text}.
    `train_on` assistant trains on every turn of the assistant in a column messages, by
    the {% generation %} marks of the chat template: the response is then all from the
    first of these turns on, the turns of others in it being context alone.
    """

    path: str
    prompts: int
    prompt_length: int
    response_length: int
    columns: dict[str, str] = field(default_factory=dict)
    wording: Wording | None = None
    too_long: TooLong = "raise"
    on_bad_row: OnBadRow = "raise"
    train_on: TrainOn = "last"

    @property
    def gives(self) -> str:
        return "demonstrations"

    def open(self, setting: Setting) -> Stream:
        return _open_fixed(self, "demonstrations", 1, setting, self.train_on)


@dataclass(frozen=True)
class Preferences(Source):
    """Prompts with a chosen and a rejected response: groups of two, chosen first.

    The chosen response has reward 1 and the rejected 0: labels, for an objective that
    looks at each by itself (KTO). `columns: {margin: NAME}` reads by how much the
    chosen one should be ahead, a number per pair, for bradley_terry.
    """

    path: str
    prompts: int
    prompt_length: int
    response_length: int
    columns: dict[str, str] = field(default_factory=dict)
    wording: Wording | None = None
    too_long: TooLong = "raise"
    on_bad_row: OnBadRow = "raise"

    @property
    def gives(self) -> str:
        return "preferences"

    @property
    def fields(self) -> frozenset[str]:
        return super().fields | ({"margin"} & self.columns.keys())

    @property
    def rows(self) -> int:
        return 2

    def open(self, setting: Setting) -> Stream:
        return _open_fixed(self, "preferences", 2, setting)


@dataclass(frozen=True)
class LabelledRows(Source):
    """Prompts with a response that is desirable (reward 1) or not (0): groups of one.

    Columns: prompt, completion, label (true or false). Of one prompt there may be any
    number of rows; each is a group by itself.
    """

    path: str
    prompts: int
    prompt_length: int
    response_length: int
    columns: dict[str, str] = field(default_factory=dict)
    wording: Wording | None = None
    too_long: TooLong = "raise"
    on_bad_row: OnBadRow = "raise"

    @property
    def gives(self) -> str:
        return "labels"

    def open(self, setting: Setting) -> Stream:
        return _open_fixed(self, "labelled", 1, setting)


def pair_rewards(lines: int) -> np.ndarray:
    """Rewards 1, 0, 1, 0, ... of `lines` lines, the chosen one of each pair first."""
    return 1.0 - np.arange(lines) % 2


def _open_fixed(
    source: Demonstrations | Preferences | LabelledRows,
    kind: Kind,
    group: int,
    setting: Setting,
    train_on: TrainOn = "last",
) -> Fixed:
    tokenizer = setting.tokenizer
    rows = read_rows(
        source.path,
        kind,
        source.columns,
        source.on_bad_row,
        tokenizer,
        train_on,
        source.wording,
    ).rows
    lengths = source.prompt_length, source.response_length
    tokens = encode_rows(tokenizer, rows, *lengths, source.too_long)
    rewards, streams = None, {}
    if kind == "preferences":
        rewards = pair_rewards(len(tokens.index))
        if "margin" in source.fields:
            margins = [rows[i].margin for i in tokens.index]
            streams["margin"] = np.asarray(margins, np.float32)
    elif kind == "labelled":
        rewards = np.array([float(rows[i].label) for i in tokens.index])
    return Fixed(tokens, source.prompts, group, setting.seed, rewards, streams)


@dataclass(frozen=True)
class Mixture(Source):
    """Several sources side by side: every batch holds `prompts` of each, in order.

    The parts must agree in group and lengths, which the first batch shows.
    """

    parts: tuple[Source, ...]

    def __post_init__(self):
        if not self.parts:
            raise ValueError("parts: empty; write at least one source")

    @property
    def path(self) -> str:
        return self.paths[0]

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(p for part in self.parts for p in part.paths))

    @property
    def prompts(self) -> int:
        return sum(part.prompts for part in self.parts)

    @property
    def gives(self) -> str:
        return self.parts[0].gives

    @property
    def fields(self) -> frozenset[str]:
        return frozenset.intersection(*(part.fields for part in self.parts))

    @property
    def rows(self) -> int:
        return self.parts[0].rows

    @property
    def unknown_behavior(self) -> bool:
        return any(part.unknown_behavior for part in self.parts)

    @property
    def varies(self) -> Varies:
        return VARIES[max(VARIES.index(part.varies) for part in self.parts)]

    def open(self, setting: Setting) -> Stream:
        return Mixed(tuple(part.open(setting) for part in self.parts))


@dataclass(frozen=True)
class Mixed:
    """The streams of a mixture side by side."""

    streams: tuple[Stream, ...]

    @property
    def size(self) -> int:
        return sum(stream.size for stream in self.streams)

    def batch(self, step: int, params: Params, memory: Memory = EMPTY) -> Experience:
        drawn = [
            stream.batch(step, params, part_of(memory, str(i)))
            for i, stream in enumerate(self.streams)
        ]
        try:
            rows, batch = jax.tree.map(
                lambda *x: np.concatenate(x), *((e.rows, e.batch) for e in drawn)
            )
        except (TypeError, ValueError) as error:
            shapes = [tuple(e.rows.response.shape[1:]) for e in drawn]
            raise ValueError(
                f"mixture: the parts have [group, tokens] {shapes} and other data; "
                "write sources of one kind and one length"
            ) from error
        metrics = {
            f"{i}/{k}": v for i, e in enumerate(drawn) for k, v in e.metrics.items()
        }
        kept = named({str(i): e.memory for i, e in enumerate(drawn)})
        return Experience(rows, batch, metrics, kept, drawn[0].components)

    def close(self) -> None:
        """Close every stream that has something to close."""
        for stream in self.streams:
            close_stream(stream)


def close_stream(stream: Stream) -> None:
    """Let go of what a stream holds, such as the processes of its reward."""
    close = getattr(stream, "close", None)
    if close is not None:
        close()


def part_of(memory: Memory, name: str) -> Memory:
    """What the part `name` remembers, of what several parts do."""
    prefix = f"{name}/"
    return {
        k.removeprefix(prefix): v for k, v in memory.items() if k.startswith(prefix)
    }


def named(memories: Mapping[str, Memory]) -> Memory:
    """What several parts remember, as one memory: the inverse of `part_of`."""
    return {f"{n}/{k}": v for n, own in memories.items() for k, v in own.items()}
