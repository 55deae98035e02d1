"""Pre-emption: SIGTERM asks a run to save and to end with a code that is queued again.

While steps are taken the signal is only noted: the run looks after every step
(`asked`), saves, and raises `Stopped`. Elsewhere, where nothing is to be saved, it
raises at once.

Several processes stop after the same step whichever of them is told: JAX's service
then takes the signal, and the steps agree through `reached_preemption_sync_point`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from unipost.processes import count

EXIT = 75
"""The exit code (EX_TEMPFAIL of sysexits.h): nothing is wrong, start it again."""
TEXT = "stopped by SIGTERM; the same command goes on from here"


class Stopped(SystemExit):
    """Ends the process with code EXIT, unless it is caught; its text is one line."""

    def __init__(self, message: str):
        super().__init__(EXIT)
        self.message = message

    def __str__(self) -> str:
        return self.message


class _Notice:
    """What is known of SIGTERM in this process."""

    def __init__(self):
        self.installed = self.given = self.told = False
        self.patient = 0

    def hear(self, *_) -> None:
        """The handler. Once a run has been stopped, another signal changes nothing."""
        self.given = True
        if not self.patient and not self.told:
            self.told = True
            raise Stopped(TEXT)


_notice = _Notice()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """SIGTERM raises `Stopped` in the main thread, or is noted (`patient`).

    Changes nothing outside the main thread, where somebody else handles the signal
    already, and where JAX's service does: in a run of several processes.
    """
    if _notice.installed or not _free():
        yield
        return
    _notice.installed, _notice.given, _notice.told = True, False, False
    signal.signal(signal.SIGTERM, _notice.hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _notice.installed = False


def _free() -> bool:
    if threading.current_thread() is not threading.main_thread() or count() > 1:
        return False
    return signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@contextlib.contextmanager
def patient() -> Iterator[None]:
    """In here SIGTERM is noted, and raises nothing: whoever is in here asks for it."""
    _notice.patient += 1
    try:
        yield
    finally:
        _notice.patient -= 1


def asked(step: int) -> bool:
    """Whether the run is to stop after `step`, in every process the same answer.

    To be called after every step, with steps that count up, in all processes.
    """
    if count() > 1:
        from jax.experimental import multihost_utils

        try:
            return multihost_utils.reached_preemption_sync_point(step)
        except RuntimeError:  # the service is switched off: nobody listens
            return False
    return _notice.installed and _notice.given


def stop(message: str) -> None:
    """Raise `Stopped` with `message`."""
    _notice.told = True
    raise Stopped(message)


def check() -> None:
    """Raise `Stopped` where SIGTERM came too late for a run that has ended since."""
    if _notice.installed and _notice.given and not _notice.patient:
        stop(TEXT)
