"""Plant one deliberate bug after another in the mathematics and run the tests on each.

    python tests/mutate.py            # all, about ten minutes on two cores
    python tests/mutate.py sign_of_dpo ddof

Each mutation changes a token or two in a copy of the package; the tests named beside it
must fail there. The last line says how many were caught; the exit status is 1 if any
survived. `tests/test_mutate.py` checks that every mutation still applies.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


class Mutation(NamedTuple):
    """`old` stands exactly once in unipost/`file`; `tests` must fail with `new`."""

    file: str
    old: str
    new: str
    tests: str


GOLDEN = "test_golden.py"
PAPERS = "test_papers.py"

MUTATIONS = {
    "sign_of_dpo": Mutation(
        "pair_links.py",
        "return jnp.logaddexp(0.0, -margin)",
        "return jnp.logaddexp(0.0, margin)",
        GOLDEN,
    ),
    "sign_of_the_advantage": Mutation(
        "links.py", "return -signal * z\n", "return signal * z\n", GOLDEN
    ),
    "min_for_max_in_the_clip": Mutation(
        "links.py",
        "return (signal > 0) & (z > self.high) | (signal < 0) & (z < -self.low)",
        "return (signal < 0) & (z > self.high) | (signal < 0) & (z < -self.low)",
        GOLDEN,
    ),
    "lower_bound_of_the_clip": Mutation(
        "links.py",
        "edge = jnp.where(signal > 0, self.high, -self.low)",
        "edge = jnp.where(signal > 0, self.high, self.low)",
        GOLDEN,
    ),
    "no_stop_gradient_on_a_weight": Mutation(
        "links.py",
        "jax.lax.stop_gradient(self.weight(self._log_ratio(units), signal))",
        "self.weight(self._log_ratio(units), signal)",
        GOLDEN,
    ),
    "no_stop_gradient_on_log_z": Mutation(
        "links.py",
        "centre = jax.lax.stop_gradient(_group_mean(gap, units.valid))",
        "centre = _group_mean(gap, units.valid)",
        PAPERS,
    ),
    "half_of_the_residual": Mutation(
        "links.py", "return 0.5 * residual**2", "return residual**2", GOLDEN
    ),
    "temperature_by_the_sign": Mutation(
        "links.py",
        "tau = jnp.where(signal > 0, self.tau_pos, self.tau_neg)",
        "tau = jnp.where(signal < 0, self.tau_pos, self.tau_neg)",
        GOLDEN,
    ),
    "ddof": Mutation(
        "signals.py",
        "free = jnp.maximum(valid.sum(axis, keepdims=True) - ddof, 1)",
        "free = jnp.maximum(valid.sum(axis, keepdims=True), 1)",
        GOLDEN,
    ),
    "leave_one_out_keeps_one": Mutation(
        "signals.py",
        "* n / jnp.maximum(n - 1, 1)",
        "* n / jnp.maximum(n, 1)",
        GOLDEN,
    ),
    "unscored_rows_count": Mutation(
        "signals.py",
        "valid = (batch.mask.sum(-1) > 0) & jnp.isfinite(rewards)\n        advantage",
        "valid = jnp.isfinite(rewards)\n        advantage",
        "test_invariances.py",
    ),
    "a_dropped_mask": Mutation(
        "aggregation.py",
        "return mask / jnp.maximum(mask.sum(), 1.0)",
        "return jnp.ones_like(mask) / jnp.maximum(mask.sum(), 1.0)",
        GOLDEN,
    ),
    "mean_for_sum": Mutation(
        "levels.py",
        'if level == "sequence":\n        return total',
        'if level == "sequence_mean":\n        return total',
        GOLDEN,
    ),
    "rows_without_tokens_count": Mutation(
        "aggregation.py",
        "return jnp.maximum((mask.sum(-1) > 0).sum(), 1).astype(mask.dtype)",
        "return jnp.maximum((mask.sum(-1) >= 0).sum(), 1).astype(mask.dtype)",
        "test_invariances.py",
    ),
    "token_mean_of_a_slice": Mutation(
        "fitting.py",
        "weight = prepared.weight * prepared.correction if token",
        "weight = prepared.mean * prepared.correction if token",
        GOLDEN,
    ),
    "k3_for_k2": Mutation(
        "penalties.py",
        'case "k2":\n            return divergence.k2(log_u)',
        'case "k2":\n            return divergence.k3(log_u)',
        GOLDEN,
    ),
    "importance_without_its_gradient": Mutation(
        "penalties.py",
        "return jnp.exp(log_rho()) * divergence.k3(log_u)",
        "return jax.lax.stop_gradient(jnp.exp(log_rho())) * divergence.k3(log_u)",
        GOLDEN,
    ),
    "future_terms_too_early": Mutation(
        "penalties.py",
        "later = jnp.flip(jnp.cumsum(jnp.flip(value, -1), -1), -1) - value",
        "later = jnp.flip(jnp.cumsum(jnp.flip(value, -1), -1), -1)",
        "test_estimators.py",
    ),
    "reward_penalty_adds": Mutation(
        "objective.py",
        "rewards=rewards - cost",
        "rewards=rewards + cost",
        PAPERS,
    ),
    "reference_point_is_not_held": Mutation(
        "reference_points.py",
        "jnp.full(value.shape, jnp.maximum(mean, 0.0))",
        "jnp.full(value.shape, jnp.minimum(mean, 0.0))",
        PAPERS,
    ),
    "order_of_the_wrong_side": Mutation(
        "reference_points.py",
        "return jnp.sort(others)[rank]",
        "return jnp.sort(values)[rank]",
        "test_golden_trl_preferences.py",
    ),
    "forward_for_reverse": Mutation(
        "classical.py",
        "return 0.5 * at_least_float32(log_u) ** 2",
        "return at_least_float32(log_u) ** 2",
        GOLDEN,
    ),
    "vocabulary_correction_adds": Mutation(
        "objective.py",
        "-objective.beta * excess",
        "objective.beta * excess",
        "test_estimators.py",
    ),
    "observation_gets_the_discount": Mutation(
        "critic.py",
        "value = jnp.where(here, value, value_after)",
        "value = jnp.where(here, value, 0.0)",
        "test_critic.py",
    ),
    "sampler_weight_upside_down": Mutation(
        "corrections.py",
        'log_u = _reported(given(batch, "old"), batch, "behavior")',
        'log_u = -_reported(given(batch, "old"), batch, "behavior")',
        PAPERS,
    ),
    "geometric_clip_on_the_wrong_side": Mutation(
        "ratios.py",
        "upper = jnp.where(signal > 0, jnp.minimum(log_u, self.high), log_u)",
        "upper = jnp.where(signal < 0, jnp.minimum(log_u, self.high), log_u)",
        PAPERS,
    ),
}


def planted(mutation: Mutation) -> str:
    """The file's text with the bug. ValueError unless `old` stands there once."""
    text = (ROOT / "unipost" / mutation.file).read_text()
    if text.count(mutation.old) != 1:
        raise ValueError(
            f"tests/mutate.py: {mutation.old!r} stands {text.count(mutation.old)} "
            f"times in unipost/{mutation.file}; write it as it is there now"
        )
    return text.replace(mutation.old, mutation.new)


def caught(mutation: Mutation) -> tuple[bool, str]:
    """(whether the tests fail on a copy with the bug, the line that says how)."""
    text = planted(mutation)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("unipost", "tests"):
            shutil.copytree(ROOT / name, copy / name)
        shutil.copy(ROOT / "pyproject.toml", copy)
        (copy / "unipost" / mutation.file).write_text(text)
        tests = [f"tests/{name}" for name in mutation.tests.split()]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", *tests]
        done = subprocess.run(
            command,
            cwd=copy,
            env=os.environ | {"PYTHONPATH": str(copy)},
            capture_output=True,
            text=True,
        )
    failed = [x for x in done.stdout.splitlines() if x.startswith(("FAILED", "ERROR"))]
    # 1: tests failed; anything else (no tests, an import error) proves nothing
    return done.returncode == 1, failed[0] if failed else done.stdout[-200:]


def main(names: list[str]) -> int:
    """Run the mutations `names` (all without names); 1 if any survived."""
    unknown = set(names) - set(MUTATIONS)
    if unknown:
        print(f"no mutation {', '.join(sorted(unknown))}; ({', '.join(MUTATIONS)})")
        return 2
    chosen, survived = names or list(MUTATIONS), []
    for name in chosen:
        found, how = caught(MUTATIONS[name])
        print(f"{'caught  ' if found else 'SURVIVED'}  {name:32}  {how}", flush=True)
        if not found:
            survived.append(name)
    print(f"{len(chosen) - len(survived)} of {len(chosen)} mutations caught")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
