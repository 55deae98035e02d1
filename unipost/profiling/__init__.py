"""Where the time of a run goes: seconds by phase for every step, and traces on request.

timing.jsonl  of every step the wall time by phase (`Phases`)
trace/        what jax.profiler recorded of some steps (`Trace`), for xprof
"""

from unipost.profiling.phases import Phases as Phases
from unipost.profiling.phases import on_device as on_device
from unipost.profiling.phases import phase as phase
from unipost.profiling.shares import shares as shares
from unipost.profiling.shares import shares_text as shares_text
from unipost.profiling.trace import Trace as Trace
