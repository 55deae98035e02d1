"""Compiled programs kept on disk, and how long compiling takes.

The cache is jax's own. JAX_COMPILATION_CACHE_DIR names its folder; without it one under
XDG_CACHE_HOME or ~/.cache is used, bounded in size. JAX_ENABLE_COMPILATION_CACHE=false
turns it off. The folder may be removed at any time; a file in it that was cut short by
a kill costs a warning of jax and a compilation at every run until then.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache

LIMIT = 4 * 2**30
"""Bytes that the default folder may hold; beyond, the oldest programs are removed."""

# what of jax's events is compiling: tracing, lowering, and XLA or reading from disk
_STAGES = frozenset(
    f"/jax/core/compile/{stage}_duration"
    for stage in ("jaxpr_trace", "jaxpr_to_mlir_module", "backend_compile")
)
_PROGRAM = "/jax/core/compile/backend_compile_duration"
_HIT = "/jax/compilation_cache/cache_hits"
_FOLDER = "jax_compilation_cache_dir"
# eager operations are programs too, and reading one takes a tenth of compiling it
_THRESHOLDS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


def default_folder() -> Path:
    """The folder of the cache where nobody names one.

    By the features of this CPU: a home folder may be shared by machines, and a program
    made for one may not run on another.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base) / "unipost" / f"compiled-{_processor()}"


def _processor() -> str:
    text = f"{platform.machine()} {platform.processor()}"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        named = [x for x in lines if x.startswith(("flags", "Features", "model name"))]
        text += "\n".join(sorted(set(named)))
    except OSError:  # not Linux
        pass
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def enable_cache(where: str | None = None) -> Path | None:
    """Keep compiled programs on disk; returns the folder, None without a cache.

    `where` is a folder, "off", or None for what the environment says. A folder that
    cannot be written costs a line on stderr, never the run.
    """
    if where == "off" or not jax.config.values["jax_enable_compilation_cache"]:
        return _use(None)
    named = where or jax.config.values[_FOLDER] or os.environ.get(_FOLDER.upper())
    if named and "://" in named:  # a bucket, which jax reads by itself
        return _use(named)
    try:
        folder = Path(named).expanduser() if named else default_folder()
        # its programs are run: nobody else may put one there
        folder.mkdir(0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        if not named:
            trim(folder, LIMIT)
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder
        reason = getattr(error, "strerror", None) or error
        print(
            f"unipost: {named or 'compilation cache'}: cannot be written ({reason}); "
            "every run compiles anew",
            file=sys.stderr,
        )
        return _use(None)
    return _use(str(folder))


def _use(folder: str | None) -> Path | None:
    if folder != jax.config.values[_FOLDER]:
        jax.config.update(_FOLDER, folder)
        reset_cache()  # where something was compiled before, jax has chosen a folder
    for name, value in _THRESHOLDS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    return None if folder is None else Path(folder)


def trim(folder: Path, limit: int) -> None:
    """Remove the oldest files until those that are left take at most `limit` bytes."""
    files = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another run removed it
            stat = path.stat()
            files.append((stat.st_mtime, stat.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= limit:
            break
        path.unlink(missing_ok=True)
        total -= size


@dataclass(frozen=True)
class Compiling:
    """What a stretch of time went on compiling.

    seconds   wall time in which anything was traced, lowered, compiled or read
    programs  how many, `cached` of them read from disk
    """

    seconds: float
    programs: int
    cached: int


class CompileClock:
    """Measures compiling while it is open, from jax's own events; a context manager."""

    def __init__(self):
        self._lock = threading.Lock()
        # disjoint spans in order; stages are nested where one jit calls another
        self._spans: list[tuple[float, float]] = []
        self._programs = self._cached = 0

    def __enter__(self) -> CompileClock:
        jax.monitoring.register_event_duration_secs_listener(self._took)
        jax.monitoring.register_event_listener(self._happened)
        return self

    def __exit__(self, *exception) -> None:
        jax.monitoring.unregister_event_duration_listener(self._took)
        jax.monitoring.unregister_event_listener(self._happened)

    def lap(self) -> Compiling:
        """What was compiled since the last lap, or since the clock was opened."""
        with self._lock:
            seconds = sum(end - start for start, end in self._spans)
            lap = Compiling(seconds, self._programs, self._cached)
            self._spans, self._programs, self._cached = [], 0, 0
        return lap

    def _took(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event not in _STAGES:
            return
        end = time.perf_counter()
        start = end - duration_secs
        with self._lock:
            while self._spans and self._spans[-1][1] > start:
                start = min(start, self._spans.pop()[0])
            self._spans.append((start, end))
            self._programs += event == _PROGRAM

    def _happened(self, event: str, **kwargs: str | int) -> None:
        with self._lock:
            self._cached += event == _HIT


def first_step_text(seconds: float, compiling: Compiling) -> str:
    """`first step 4.2 s, of which compiling 3.9 s (31 programs, 0 cached)`."""
    return (
        f"first step {seconds:.1f} s, of which compiling {compiling.seconds:.1f} s "
        f"({compiling.programs} programs, {compiling.cached} cached)"
    )
