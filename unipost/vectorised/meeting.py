"""Jobs that run side by side and meet where each of them asks for the same thing.

A run's rows come from code of the host that asks the model in between: one or several
times, in its own order. Each such job has a thread; when all that still work wait for
an answer, the questions are answered together. No more of them work at a time than
there are cores, as their rewards may have a time limit.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from unipost.runs import RunError

T = TypeVar("T")
Answer = Callable[[dict[int, Any]], Mapping[int, Any]]
"""The answers to what jobs ask, by the place of the job."""


def cores() -> int:
    """The cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


class Meeting:
    """Runs jobs whose questions are answered together; a context manager."""

    def __init__(self, places: int):
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(places, "unipost-runs")
        self._working: set[int] = set()
        self._asked: dict[int, Any] = {}
        self._answered: dict[int, Any] = {}
        self._over = False
        self._turns = threading.Semaphore(cores())

    def __enter__(self) -> Meeting:
        return self

    def __exit__(self, *exception) -> None:
        with self._changed:  # nobody answers any more
            self._over = True
            self._changed.notify_all()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def run(self, jobs: Mapping[int, Callable[[], T]], answer: Answer) -> dict[int, T]:
        """What every job gives, by its place; `answer` is called in this thread.

        Raises what the first job raises, after the others are done. Where `answer`
        raises, every job that asked is told.
        """
        self._working = set(jobs)
        futures = {
            place: self._pool.submit(self._work, place, job)
            for place, job in jobs.items()
        }
        while asked := self._questions():
            try:
                found: Mapping[int, Any] = answer(asked)
            except BaseException as error:
                found = dict.fromkeys(asked, error)
            with self._changed:
                self._answered.update(found)
                self._changed.notify_all()
        return {place: future.result() for place, future in futures.items()}

    def ask(self, place: int, question: Any) -> Any:
        """The answer to `question` of the job at `place`; called inside the job."""
        with self._changed:
            self._asked[place] = question
            self._changed.notify_all()
            self._turns.release()
            self._changed.wait_for(lambda: self._over or place in self._answered)
            answer = self._answered.pop(place, RunError("the runs have been stopped"))
        self._turns.acquire()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _work(self, place: int, job: Callable[[], T]) -> T:
        try:
            with self._turns:
                return job()
        finally:
            with self._changed:
                self._working.discard(place)
                self._changed.notify_all()

    def _questions(self) -> dict[int, Any]:
        """What all jobs that still work ask; nothing once none works."""
        with self._changed:
            self._changed.wait_for(lambda: self._working == self._asked.keys())
            asked, self._asked = self._asked, {}
        return dict(sorted(asked.items()))
