"""The phases of a step, timed while the loop goes on without waiting for the device.

The loop only hands work to the device; when that work is done is seen by a thread that
waits for its results. A device does one thing after the other, so a phase of it lasts
from the end of the one before, or from when it was handed over, to its results.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax

from unipost.profiling.timeline import Span, divided, overlap

AHEAD = "ahead/"
"""Begins the names of what another thread than the loop's does beside it."""

_current: ContextVar[Phases | None] = ContextVar("phases", default=None)


class _Work(NamedTuple):
    """What the device was given at `start`, and the arrays that it makes of it."""

    name: str
    start: float
    arrays: Any


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Count what the host does inside as `name`, where a run measures its phases.

    Inside another phase it counts for itself alone. In a trace it has this name.
    """
    phases = _current.get()
    with jax.profiler.TraceAnnotation(name):
        if phases is None:
            yield
            return
        with phases.host(name):
            yield


@contextmanager
def on_device(name: str) -> Iterator[Callable[[Any], None]]:
    """Count what the device does for the arrays that the yielded function is given.

    They must not be donated later. It returns at once: nothing waits for them here.
    """
    phases, start = _current.get(), time.perf_counter()
    with jax.profiler.TraceAnnotation(name):
        yield lambda arrays: phases and phases.watch(name, start, arrays)


class Phases:
    """Measures the phases of a run while it is open; a context manager.

    The thread that opens it is the loop's. What other threads do counts under `AHEAD`,
    beside the loop: those seconds are no part of a step's wall time.
    """

    def __init__(self):
        self._lock = threading.Condition()
        self._host: list[Span] = []
        self._beside: list[Span] = []
        self._device: list[Span] = []
        self._pending: deque[float] = deque()
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._open: list[tuple[str, float]] = []

    def __enter__(self) -> Phases:
        self._loop = threading.get_ident()
        self._token = _current.set(self)
        self._watcher = threading.Thread(
            target=self._watch, name="unipost-phases", daemon=True
        )
        self._watcher.start()
        return self

    def __exit__(self, *exception) -> None:
        _current.reset(self._token)
        self._work.put(None)
        self._watcher.join()

    @contextmanager
    def host(self, name: str) -> Iterator[None]:
        """See `phase`."""
        start = time.perf_counter()
        if threading.get_ident() != self._loop:
            try:
                yield
            finally:
                span = Span(AHEAD + name, start, time.perf_counter())
                with self._lock:
                    self._beside.append(span)
            return
        self._interrupt(start)
        self._open.append((name, start))
        try:
            yield
        finally:
            end = time.perf_counter()
            self._interrupt(end)
            self._open.pop()
            if self._open:  # the outer phase goes on
                self._open[-1] = self._open[-1][0], end

    def _interrupt(self, now: float) -> None:
        """Write down what the innermost open phase has done until now."""
        if self._open:
            self._host.append(Span(*self._open[-1], now))

    def watch(self, name: str, start: float, arrays: Any) -> None:
        """See `on_device`: `arrays` are made of what was handed over since `start`."""
        with self._lock:
            self._pending.append(start)
        self._work.put(_Work(name, start, arrays))

    def _watch(self) -> None:
        last = 0.0
        while (work := self._work.get()) is not None:
            name, start, arrays = work
            try:
                jax.block_until_ready(arrays)
            except RuntimeError:  # the loop meets the same error by itself
                pass
            del work, arrays
            now = time.perf_counter()
            with self._lock:
                self._device.append(Span(name, max(start, last), now))
                self._pending.popleft()
                self._lock.notify_all()
            last = now

    def wait(self) -> None:
        """Until the device has done all that it was given so far."""
        self._wait(math.inf)

    def _wait(self, end: float) -> None:
        """Until what the device was given before `end` is done."""
        with self._lock:
            self._lock.wait_for(lambda: not self._pending or self._pending[0] >= end)

    def between(self, start: float, end: float) -> dict[str, float]:
        """Seconds of [start, end] by phase, each moment once: see `divided`.

        Asked for once, of stretches in their order; it waits until all that the device
        was given before `end` is done. What happened in other threads stands beside it.
        """
        self._wait(end)
        with self._lock:
            found = divided(start, end, self._device, self._host)
            for span in self._beside:
                if seconds := overlap(span, start, end):
                    found[span.name] = found.get(span.name, 0.0) + seconds
            self._device = [x for x in self._device if x.end > end]
            self._beside = [x for x in self._beside if x.end > end]
        self._host = [x for x in self._host if x.end > end]
        return {name: round(seconds, 6) for name, seconds in found.items()}
