"""Controlled comparisons: the same base, data and budget for every arm and seed.

A study file holds `common`, an experiment without what the arms vary, and `arms`,
each laid over `common`. The claim, the rule by which an arm has improved, and which
arm must fail it are written down there before anything runs.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from unipost.batch import Batch
from unipost.config import build, dump_tree, to_tree
from unipost.evaluation import Evaluation, Evaluator, Report
from unipost.experiment import Experiment, check_staleness
from unipost.explain import gradient_coefficient
from unipost.loading import laid_out, setting_of
from unipost.locks import held
from unipost.mesh import Layout, Mesh, within
from unipost.objective import Objective
from unipost.objectives import AnyObjective
from unipost.optimizers import Optimizer
from unipost.preemption import check as check_stopped
from unipost.reference_cache import check_cache
from unipost.runs import RunError, check_own, open_folder, write_atomic
from unipost.scalar.critic import Critic, check_critic
from unipost.sources import Source
from unipost.train import Model, load_model, train
from unipost.tree import COMMAND_LINE, ConfigError, load_tree, merge
from unipost.update import annotate, with_present, with_streams

# probability bins of the gradient-coefficient figure, log-spaced from 0.001 to 1
EDGES = np.logspace(-3, 0, 13)


@dataclass(frozen=True)
class Rule:
    """An arm has improved when the interval of its gain lies above `above`."""

    task: str
    metric: Literal["greedy", "sampled"]
    above: float = 0.0


@dataclass(frozen=True)
class Arm:
    """One method of the comparison; None takes what `common` says.

    reference_cache  as in an experiment, for all arms with the same data; where the
                     rows change with the seed, a folder in it per seed
    """

    title: str
    data: Source
    objective: AnyObjective
    optimizer: Optimizer
    steps: int
    expected: Literal["learn", "fail"] = "learn"
    inner_epochs: int = 1
    minibatches: int = 1
    microbatches: int = 1
    staleness: int = 0
    sync_every: int = 1
    reference_cache: str | None = None
    critic: Critic | None = None

    def __post_init__(self):
        check_critic(self.objective, self.critic, self.data)
        check_staleness(self.data, self.staleness, self.sync_every)
        check_cache(self.objective, self.data, self.reference_cache)


@dataclass(frozen=True)
class Study:
    """A comparison of arms from one base.

    base         folder of the base model, or `train`: make it again by `recipe`
    recipe       the experiment file that trained the base
    claim        what the study tests, stated so that it can fail
    rule         when an arm has improved over the base
    comparisons  pairs of arms to compare on the same seeds and items, with a label
    metrics      numbers of the training steps whose mean over the run is reported too
    mesh         devices of every run and evaluation; None: one
    """

    name: str
    claim: str
    base: str
    rule: Rule
    seeds: tuple[int, ...]
    evaluation: Evaluation
    arms: dict[str, Arm]
    recipe: str | None = None
    comparisons: tuple[tuple[str, ...], ...] = ()
    metrics: tuple[str, ...] = ()
    mesh: Mesh | None = None

    def __post_init__(self):
        task = self.evaluation.tasks.get(self.rule.task)
        if task is None:
            raise ValueError(
                f"rule.task: {self.rule.task!r} is no task; write one of "
                f"{', '.join(self.evaluation.tasks)}"
            )
        if self.rule.metric == "sampled" and not task.samples:
            raise ValueError(
                f"rule.metric: sampled, but evaluation.tasks.{self.rule.task}.samples "
                "is 0; write the number of samples"
            )
        if not self.seeds or not self.arms:
            raise ValueError("seeds, arms: a study needs at least one of each")
        for pair in self.comparisons:
            if len(pair) != 3 or not {*pair[:2]} <= {*self.arms}:
                raise ValueError(
                    f"comparisons: {list(pair)}; write [arm, other arm, label]"
                )

    def experiment(self, arm: str, seed: int, base: str) -> Experiment:
        """The experiment of one arm and seed from the base in folder `base`."""
        chosen = self.arms[arm]
        fields = {f.name for f in dataclasses.fields(Experiment)}
        values = {k: v for k, v in vars(chosen).items() if k in fields}
        if chosen.reference_cache is not None and chosen.data.varies == "seed":
            values["reference_cache"] = str(Path(chosen.reference_cache) / str(seed))
        return Experiment(model=base, seed=seed, mesh=self.mesh, **values)


def is_study(tree: dict[str, Any]) -> bool:
    """Whether a file describes a study (it has arms) or one experiment."""
    return "arms" in tree


def load_study(file: str | Path, overrides: Iterable[str] = ()) -> Study:
    """A study from its file; every arm is laid over `common`. Raises ConfigError."""
    tree, written = load_tree(file, overrides), load_tree(file)
    common, arms = tree.pop("common", {}), tree.get("arms")
    if not isinstance(common, dict) or not isinstance(arms, dict):
        raise ConfigError(str(file), "arms", "write a mapping, and common another")
    for here, known in ((tree, {*written, "common"}), (arms, written.get("arms", {}))):
        for key in here.keys() - known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            where = key if here is tree else f"arms.{key}"
            problem = f"unknown {key!r}{hint} (the file has {', '.join(known)})"
            raise ConfigError(COMMAND_LINE, where, problem)
    tree["arms"] = {name: merge(common, arm or {}) for name, arm in arms.items()}
    return build(Study, tree, file=str(file))


def run_study(study: Study, folder: Path) -> dict[str, Any]:
    """Run every arm and seed that is not done yet; returns and writes results.json.

    Each arm and seed is a run directory `folder/ARM/SEED` with its result.json; a
    study that was killed goes on where it stopped. Raises RunError where the folder
    holds something else or is in use.
    """
    layout = None if study.mesh is None else study.mesh.open()
    check_own(folder)
    with within(layout), held(folder):
        return _run_study(study, folder, layout)


def _run_study(study: Study, folder: Path, layout: Layout | None) -> dict[str, Any]:
    started = time.perf_counter()
    open_folder(folder, dump_tree(to_tree(study)))
    base = _base(study, folder)
    model = load_model(base, 0, layout=layout)
    evaluator = Evaluator(
        study.evaluation, model.policy, model.tokenizer, model.params, seed=0
    )
    at_base = _cached(folder / "base.json", lambda: _numbers(study, evaluator, model))
    results = {
        "study": study.name,
        "claim": study.claim,
        "seeds": list(study.seeds),
        "git": _revision(),
        "rule": vars(study.rule),
        "comparisons": [list(pair) for pair in study.comparisons],
        "tasks": {
            name: {
                "items": len(opened.questions),
                "role": opened.task.role,
                "title": opened.task.title or name,
            }
            for name, opened in evaluator.tasks.items()
        },
        "base": at_base,
        "arms": {},
    }
    total = len(study.arms) * len(study.seeds)
    for i, (name, arm) in enumerate(study.arms.items()):
        runs = []
        for j, seed in enumerate(study.seeds):
            title = f"[{i * len(study.seeds) + j + 1}/{total}] {name} seed {seed}"
            path = folder / name / str(seed)
            experiment = study.experiment(name, seed, base)
            runs.append(
                _cached(
                    path / "result.json",
                    lambda e=experiment, p=path, t=title: _run_arm(
                        study, e, p, t, model, evaluator
                    ),
                )
            )
        results["arms"][name] = {
            "title": arm.title,
            "expected": arm.expected,
            "runs": runs,
        }
    results["wall_seconds"] = time.perf_counter() - started
    write_atomic(folder / "results.json", json.dumps(results) + "\n")
    return results


def _base(study: Study, folder: Path) -> str:
    """The folder of the base model, trained first when the study says so."""
    if study.base != "train":
        return study.base
    if study.recipe is None:
        raise RunError("base: train, but the study has no recipe; write its file")
    from unipost.config import load

    recipe, final = load(Experiment, study.recipe), folder / "base" / "final"
    # refuses a recipe that has changed; `final` appears when its run is over
    open_folder(folder / "base", dump_tree(to_tree(recipe)))
    if not final.exists():
        train(recipe, folder / "base", title="base")
    return str(final)


def _cached(path: Path, make) -> Any:
    if path.exists():
        return json.loads(path.read_text())
    value = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(value) + "\n")
    return value


def _run_arm(study, experiment, folder, title, model: Model, evaluator: Evaluator):
    result = train(experiment, folder, model=model, title=title)
    check_stopped()
    # a run may have the axes of its mesh in another order
    params = laid_out(result.model, model.mesh).params
    report = evaluator(params, experiment.objective)
    return {
        "seed": experiment.seed,
        "steps": experiment.steps,
        "train_seconds": result.seconds,
        "tokens": sum(line["tokens"] for line in _lines(folder / "timing.jsonl")),
        **_over_steps(study, folder),
        **_reported(study, report),
        "coefficient": _coefficients(experiment, model, params),
    }


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _over_steps(study: Study, folder: Path) -> dict[str, float]:
    """Means over the steps of the training metrics that the study asks for."""
    steps = _lines(folder / "metrics.jsonl")
    means = {}
    for name in study.metrics:
        values = [step[name] for step in steps if name in step]
        finite = [x for x in values if isinstance(x, int | float)]
        if finite:
            means[f"train/{name}"] = float(np.mean(finite))
    return means


def _numbers(study: Study, evaluator: Evaluator, model: Model) -> dict[str, Any]:
    return _reported(study, evaluator(model.params))


def _reported(study: Study, report: Report) -> dict[str, Any]:
    """A report as plain data: per-item outcomes, and the distances."""
    tasks = {}
    for name, graded in report.tasks.items():
        tasks[name] = {"greedy": graded.greedy.tolist()}
        if graded.sampled is not None:
            tasks[name]["sampled"] = graded.sampled.tolist()
            passes = {str(k): v.tolist() for k, v in graded.pass_at.items()}
            tasks[name]["pass_at"] = passes
    target = report.tasks[study.rule.task]
    names = ("kl_reverse", "kl_forward", "entropy", "margin")
    return {
        "tasks": tasks,
        "length": target.length,
        "style": target.style,
        **{name: report.distance.get(name) for name in names},
    }


def _coefficients(experiment: Experiment, model: Model, params: Any):
    """Mean gradient coefficient by token probability, after training.

    The first batch of the run's own data under the trained policy: which tokens the
    objective still pushes, and how hard. None where no such number exists.
    """
    policy, objective = model.policy, experiment.objective
    if not isinstance(objective, Objective):
        return None
    setting = setting_of(model, experiment.seed)
    rows, batch = experiment.data.open(setting).batch(0, params)[:2]
    batch = with_streams(objective, policy, rows, batch, params, model.params)
    batch = with_present(policy, objective, params, rows, batch)
    logps = annotate(policy, params, rows).policy
    try:
        values = gradient_coefficient(objective, logps, batch)
    except ValueError:  # the gradient is not one number per token
        return None
    return _binned(logps, values, batch)


def _binned(logps, values, batch: Batch) -> dict[str, list]:
    kept = np.asarray(batch.mask) > 0
    p = np.exp(np.asarray(logps))[kept]
    # a preference or an advantage pushes both ways: its size is what is compared
    size = np.asarray(jnp.abs(values))[kept]
    place = np.clip(np.digitize(p, EDGES) - 1, 0, len(EDGES) - 2)
    count = np.bincount(place, minlength=len(EDGES) - 1)
    total = np.bincount(place, weights=size, minlength=len(EDGES) - 1)
    mean = [float(t / c) if c else None for t, c in zip(total, count, strict=True)]
    centres = np.sqrt(EDGES[1:] * EDGES[:-1])
    return {
        "probability": centres.tolist(),
        "value": mean,
        "count": count.tolist(),
    }


def _revision() -> str | None:
    """The short commit of the checkout, or None outside one."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
