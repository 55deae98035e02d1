"""A trace of some steps of a run, by jax.profiler: for xprof or TensorBoard."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax

from unipost.processes import is_first
from unipost.profiling.phases import Phases

SKIPPED = 2
"""Steps of a start that are not traced unless asked for: they compile."""
STEP = "step"


@dataclass(frozen=True)
class Trace:
    """A trace of `steps` steps from the 1-based step `first` on.

    first  None: `SKIPPED` steps after those that the run starts with. It is no part of
           a run's settings and changes no number of it.
    """

    steps: int
    first: int | None = None

    def __post_init__(self):
        for name, value in (("--trace", self.steps), ("--trace-from", self.first)):
            if value is not None and value < 1:
                raise ValueError(f"{name} {value}: write 1 or more")

    def span(self, done: int, last: int) -> range:
        """The 1-based steps to trace, of a run that has done `done` of `last`.

        Raises ValueError where these are not all still to come.
        """
        if done >= last:
            raise ValueError(
                f"--trace {self.steps}: the run has done all of its {last} steps"
            )
        first = done + SKIPPED + 1 if self.first is None else self.first
        found = range(first, first + self.steps)
        if first <= done:
            raise ValueError(
                f"--trace-from {first}: the run goes on after step {done}; write a "
                "later step, or another --out"
            )
        if found[-1] > last:
            what = f"the first {SKIPPED} compile, " if self.first is None else ""
            raise ValueError(
                f"--trace {self.steps}: {what}steps {first} to {found[-1]} are asked "
                f"for, and the run has steps {done + 1} to {last}; trace fewer, or "
                "write --trace-from"
            )
        return found


def traced_steps(
    trace: Trace | None, folder: Path, phases: Phases, done: int, last: int
) -> Iterator[int]:
    """The 0-based steps from `done` to `last`, those of `trace` recorded in `folder`.

    Every step is marked by its 1-based number. Before and after the traced ones the
    device is waited for, so that they are whole. Of several processes the first records
    what its own devices do. Raises ValueError as `Trace.span`.
    """
    wanted = range(0) if trace is None else trace.span(done, last)
    wanted = wanted if is_first() else range(0)
    with contextlib.ExitStack() as running:
        for step in range(done, last):
            now = step + 1
            if wanted and now == wanted[0]:
                phases.wait()
                running.enter_context(_recording(folder, phases))
            with jax.profiler.StepTraceAnnotation(STEP, step_num=now):
                yield step
            if wanted and now == wanted[-1]:
                running.close()


@contextlib.contextmanager
def _recording(folder: Path, phases: Phases) -> Iterator[None]:
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # every call of Python: slow, and large
    jax.profiler.start_trace(str(folder), profiler_options=options)
    try:
        yield
    finally:
        phases.wait()
        jax.profiler.stop_trace()
