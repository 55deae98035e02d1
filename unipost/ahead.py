"""Sampling ahead of training: the batch of a step is drawn some steps before it.

With staleness k and a sync every n steps, the batch of step t comes from the parameters
after v(t) = n floor(max(0, t - k) / n) steps. That is a rule, not a race: the numbers
of a run are the same however long sampling takes.
"""

from __future__ import annotations

import io
import json
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unipost.batch import Batch
from unipost.profiling import phase
from unipost.sources import EMPTY, Experience, Memory, Stream
from unipost.update import Rows


def synced(step: int, staleness: int, sync_every: int) -> int:
    """The number of steps after which the sampler's parameters of `step` were taken."""
    return max(0, step - staleness) // sync_every * sync_every


@dataclass(frozen=True)
class Plan:
    """How far sampling runs ahead, and how often it gets the parameters."""

    staleness: int
    sync_every: int

    @property
    def holds(self) -> bool:
        """Whether the sampler keeps parameters that training has left behind."""
        return self.sync_every > 1


class Ahead:
    """Draws the batches of a run in order, `plan.staleness` steps ahead.

    The draws happen in a thread of their own while training goes on. Parameters that
    lie on several devices are drawn from in the caller's thread instead, as two
    programs at once on one mesh may wait for each other for ever; the numbers are the
    same.

    held  the sampler's parameters where they are not those of the step (`Plan.holds`)
    """

    def __init__(
        self,
        stream: Stream,
        plan: Plan,
        whole: Callable[[Any], Any],
        done: int = 0,
        kept: bytes | None = None,
        held: Any = None,
    ):
        self._stream, self._plan, self._whole = stream, plan, whole
        self.held = held
        self._next = done
        self._pending: deque[tuple[int, Future[Experience] | Experience]] = deque()
        self._memory: Memory = EMPTY
        self._pool: ThreadPoolExecutor | None = None
        if kept is not None:
            self._memory, drawn = unpack(kept)
            self._pending.extend(drawn)
            self._next = done + len(drawn)

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *exception) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        close = getattr(self._stream, "close", None)
        if close is not None:
            close()

    def take(self, step: int, params: Any, last: int) -> Experience:
        """The batch of `step`.

        `params` are those that are trained, after `step` steps; draws up to step
        `last` are begun with them.
        """
        plan = self._plan
        if plan.holds and (self.held is None or step % plan.sync_every == 0):
            with phase("sync"):
                self.held = _copy(params)
        # at the first step all that is ahead of it comes from the same parameters
        source: Any = None
        while self._next <= min(step + plan.staleness, last):
            if source is None:
                # an update overwrites the parameters that it is given
                later = plan.staleness > 0 and not plan.holds
                source = self.held if plan.holds else params
                with phase("sync"):
                    source = self._whole(_copy(source) if later else source)
            self._begin(self._next, source)
            self._next += 1
        at, pending = self._pending.popleft()
        if at != step:
            raise AssertionError(f"the batch of step {at} was drawn for step {step}")
        return pending.result() if isinstance(pending, Future) else pending

    def age(self, step: int) -> int:
        """Steps between the parameters that drew the batch of `step` and its own."""
        return step - synced(step, self._plan.staleness, self._plan.sync_every)

    def _begin(self, step: int, params: Any) -> None:
        if self._plan.staleness == 0 or _spread(params):
            self._pending.append((step, self._draw(step, params)))
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "unipost-sampling")
        # what is measured of a run is measured of its threads too
        draw = copy_context().run, self._draw, step, params
        self._pending.append((step, self._pool.submit(*draw)))

    def _draw(self, step: int, params: Any) -> Experience:
        drawn = self._stream.batch(step, params, self._memory)
        self._memory = drawn.memory
        return drawn

    def keep(self) -> bytes | None:
        """What a checkpoint needs besides the parameters; None: nothing.

        The batches drawn ahead, which it waits for, and the stream's memory after them.
        """
        drawn = [
            (step, x.result() if isinstance(x, Future) else x)
            for step, x in self._pending
        ]
        return pack(self._memory, drawn) if drawn or self._memory else None


def _copy(params: Any) -> Any:
    return jax.tree.map(jnp.copy, params)


def _spread(params: Any) -> bool:
    return any(len(x.devices()) > 1 for x in jax.tree.leaves(params))


BATCH = tuple(f.name for f in fields(Batch))
ROWS = Rows._fields[:4]


def pack(memory: Memory, drawn: list[tuple[int, Experience]]) -> bytes:
    """Memory and experience as the bytes of one .npz file."""
    arrays: dict[str, Any] = {f"memory/{k}": np.asarray(v) for k, v in memory.items()}
    notes = []
    for i, (step, e) in enumerate(drawn):
        notes.append([step, dict(e.metrics), list(e.components), list(e.memory)])
        named = {f"rows/{n}": getattr(e.rows, n) for n in ROWS}
        named |= {f"batch/{n}": getattr(e.batch, n) for n in BATCH}
        named |= {f"memory/{n}": x for n, x in e.memory.items()}
        for name, array in jax.device_get(named).items():
            if array is not None:
                arrays[f"{i}/{name}"] = np.asarray(array)
    arrays["notes"] = np.frombuffer(json.dumps(notes).encode(), np.uint8)
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def unpack(kept: bytes) -> tuple[Memory, list[tuple[int, Experience]]]:
    """The inverse of `pack`."""
    with np.load(io.BytesIO(kept)) as file:
        arrays = {name: file[name] for name in file.files}
    notes = json.loads(arrays.pop("notes").tobytes())

    # of the host: jax takes them where it takes its own
    def under(prefix: str) -> dict[str, Any]:
        return {
            k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)
        }

    drawn = []
    for i, (step, metrics, components, _) in enumerate(notes):
        texts = under(f"{i}/rows/")
        prompt, prompt_mask, response, mask = (texts[n] for n in ROWS)
        rows = Rows(prompt, prompt_mask, response, mask)
        batch = Batch(**under(f"{i}/batch/"))
        memory = under(f"{i}/memory/")
        parts = tuple(components)
        drawn.append((step, Experience(rows, batch, metrics, memory, parts)))
    return under("memory/"), drawn
