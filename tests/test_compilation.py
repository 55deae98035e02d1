"""Compiled programs kept on disk, and the time that compiling takes."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from unipost import cli, compilation
from unipost import train as loop
from unipost.compilation import (
    CompileClock,
    Compiling,
    default_folder,
    enable_cache,
    first_step_text,
    trim,
)

ROOT = Path(__file__).parents[1]
NAMES = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)
FOLDER, ENABLED, SECONDS, SIZE = NAMES


@pytest.fixture
def settings(monkeypatch, tmp_path):
    """jax as it is where nobody chose a cache; put back afterwards."""
    before = {name: jax.config.values[name] for name in NAMES}
    for name in NAMES:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    for name, value in zip(NAMES, (None, True, 1.0, 0), strict=True):
        jax.config.update(name, value)
    reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    reset_cache()


def compile_something(factor: float) -> None:
    """One program that nothing else compiles."""
    jax.jit(lambda x: jnp.sin(x) * factor)(1.5).block_until_ready()


def test_the_default_folder_is_the_users(settings, tmp_path):
    folder = enable_cache()
    assert folder == default_folder()
    assert folder is not None and folder.parent == tmp_path / "xdg" / "unipost"
    assert folder.stat().st_mode & 0o077 == 0
    compile_something(0.123)
    # small programs too
    assert len(list(folder.glob("*-cache"))) >= 1


def test_home_without_xdg(settings, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder().parent == tmp_path / ".cache" / "unipost"


def test_another_processor_has_another_folder(monkeypatch):
    one = default_folder()
    assert one == default_folder()
    monkeypatch.setattr(compilation.platform, "machine", lambda: "abacus")
    assert default_folder() != one


def test_a_folder_that_is_named_is_used(settings, tmp_path, monkeypatch):
    """The argument before the environment, the environment before the default."""
    monkeypatch.setenv(FOLDER.upper(), str(tmp_path / "named"))
    assert enable_cache() == tmp_path / "named"
    assert enable_cache(str(tmp_path / "asked")) == tmp_path / "asked"
    compile_something(0.234)
    assert list((tmp_path / "asked").glob("*-cache"))
    assert not list((tmp_path / "named").iterdir())
    assert not (tmp_path / "xdg").exists()


def test_off_is_off(settings, tmp_path):
    assert enable_cache() is not None
    assert enable_cache("off") is None
    compile_something(0.345)
    jax.config.update(ENABLED, False)
    assert enable_cache() is None
    compile_something(0.456)
    assert not list(tmp_path.rglob("*-cache"))


@pytest.mark.parametrize("where", ["argument", "default"])
def test_a_folder_that_cannot_be_written_costs_one_line(
    where, settings, tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").write_text("")
    below = str(tmp_path / "file" / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", below)
    assert enable_cache(below if where == "argument" else None) is None
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    named = below if where == "argument" else "compilation cache"
    assert error.startswith(f"unipost: {named}: cannot be written (Not a directory)")
    compile_something(0.567)
    assert capsys.readouterr().err == ""


def test_thresholds_of_the_environment_stay(settings, monkeypatch):
    monkeypatch.setenv(SECONDS.upper(), "1.0")
    enable_cache()
    assert jax.config.values[SECONDS] == 1.0
    assert jax.config.values[SIZE] == -1


def test_the_oldest_programs_go_first(tmp_path):
    for age, name in enumerate("abcd"):
        (tmp_path / name).write_bytes(b"0" * 10)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    trim(tmp_path, 40)
    assert {x.name for x in tmp_path.iterdir()} == set("abcd")
    trim(tmp_path, 25)
    assert {x.name for x in tmp_path.iterdir()} == set("ab")


SCRIPT = """
import jax, jax.numpy as jnp
from unipost.compilation import CompileClock, enable_cache
enable_cache()
with CompileClock() as clock:
    jax.jit(lambda x: jax.lax.scan(lambda c, y: (jnp.tanh(c @ y), c), x, x[None]))(
        jnp.ones((4, 4))
    )
    lap = clock.lap()
print(lap.programs, lap.cached, lap.seconds)
"""


def test_the_next_process_compiles_nothing(tmp_path):
    """And neither says a word about it: no warning of another machine's features."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    kept |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    command, said = [sys.executable, "-c", SCRIPT], []
    for _ in range(2):
        done = subprocess.run(
            command, cwd=ROOT, env=kept, capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, done.stderr) == (0, "")
        said.append([float(x) for x in done.stdout.split()])
    (programs, none, cold), (again, cached, warm) = said
    assert programs == again == cached >= 1 and none == 0
    assert cold > 0 and warm > 0


def test_the_clock_counts_a_moment_once(monkeypatch):
    """Stages within stages, as where one jitted function calls another."""
    stage = "/jax/core/compile/{}_duration"
    trace, lower = stage.format("jaxpr_trace"), stage.format("jaxpr_to_mlir_module")
    now = iter([2.0, 3.0, 5.0, 9.0, 9.5])
    monkeypatch.setattr(compilation.time, "perf_counter", lambda: next(now))
    record = jax.monitoring.record_event_duration_secs
    with CompileClock() as clock:
        record(trace, 1.0)  # 1 to 2, within the next but one
        record(trace, 0.5)  # 2.5 to 3, within it too
        record(trace, 4.5)  # 0.5 to 5
        record(lower, 1.0)  # 8 to 9
        record(stage.format("backend_compile"), 0.5)  # 9 to 9.5
        record("/jax/checkpoint/write_duration", 7.0)
        jax.monitoring.record_event("/jax/compilation_cache/cache_hits")
        lap = clock.lap()
        assert lap == Compiling(pytest.approx(6.0), 1, 1)
        assert clock.lap() == Compiling(0, 0, 0)
    record(trace, 1.0)
    assert clock.lap() == Compiling(0, 0, 0)


def test_the_clock_sees_what_jax_compiles():
    def cube(x):
        return x * x * x * 0.678

    with CompileClock() as clock:
        once = jax.jit(cube)
        once(jnp.ones(7))
        first = clock.lap()
        once(jnp.ones(7))
        assert clock.lap() == Compiling(0, 0, 0)
    assert first.programs >= 1 and first.seconds > 0


def test_what_is_said_of_the_first_step():
    text = first_step_text(4.21, Compiling(3.93, 31, 0))
    assert text == "first step 4.2 s, of which compiling 3.9 s (31 programs, 0 cached)"
    text = first_step_text(0.5, Compiling(0.25, 31, 31))
    assert text.endswith("compiling 0.2 s (31 programs, 31 cached)")


def test_the_command_line_says_it(settings, tmp_path, monkeypatch, capsys):
    file = tmp_path / "x.yaml"
    base = ROOT / "experiments"
    file.write_text(
        f"model: {base}/base\nobjective: sft\nsteps: 1\n"
        "optimizer: {name: sgd, learning_rate: 1}\n"
        f"data: {{name: demonstrations, path: {base}/data/equations_train.jsonl, "
        "prompts: 1, prompt_length: 16, response_length: 12}\n"
    )
    seen = []

    def train(experiment, folder, title, trace):
        seen.append(jax.config.values[FOLDER])
        return loop.Result(*[None] * 2, 7.0, (4.0, Compiling(3.0, 2, 1)))

    monkeypatch.setattr(loop, "train", train)
    command = ["run", str(file), "--out", str(tmp_path / "out")]
    assert cli.main([*command, "--cache", str(tmp_path / "kept")]) == 0
    said = capsys.readouterr().out
    assert "\nfirst step 4.0 s, of which compiling 3.0 s (2 programs, 1 cached)" in said
    assert cli.main([*command, "--cache", "off"]) == 0
    assert cli.main(command) == 0
    assert seen == [str(tmp_path / "kept"), None, str(default_folder())]
