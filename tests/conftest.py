"""Eight host devices and 64-bit mode for every test; float32 is asked for by dtype."""

import gc
import os
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

# cheap compilation: most of the tests' time is XLA's
FLAGS = (
    "--xla_force_host_platform_device_count=8",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_backend_optimization_level=0",
)
if version("jaxlib").startswith("0.10."):
    # halves the time of compiling; the flag is gone in later releases
    FLAGS += ("--xla_cpu_use_fusion_emitters=false",)
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_ENABLE_X64", "1")

# programs are compiled once and kept for the next run of the tests
CACHE = Path(__file__).parents[1] / ".pytest_cache" / "compiled"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# compiling for TPUs needs libtpu, which the extra `tpu` brings
collect_ignore = [] if find_spec("libtpu") else ["test_plan_tpu.py"]


def pytest_configure(config):
    """Bound the programs kept; the process that only hands out tests imports no jax."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", 0):
        from unipost.compilation import trim

        if CACHE.exists():
            trim(CACHE, 2**29)


@pytest.fixture(scope="module", autouse=True)
def no_programs_left():
    """Forget what a module compiled: kept, a worker grows to 5 GB.

    What outlives a module stays to the end: frozen, no later collection walks it.
    """
    yield
    import jax

    jax.clear_caches()
    gc.collect()
    gc.freeze()
