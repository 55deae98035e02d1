"""What a run is: the experiment, checked as a whole where it is made."""

from __future__ import annotations

from dataclasses import dataclass

from unipost.adapters import LoRA
from unipost.checkpoint import Checkpoints
from unipost.completions import Completions
from unipost.data_needs import check_data
from unipost.evaluation import Evaluation
from unipost.held_out import HeldOut
from unipost.loading import NewModel
from unipost.mesh import Layout, Mesh
from unipost.model import Compute
from unipost.model.attention import check_sequence
from unipost.objectives import Trainable
from unipost.optimizers import Optimizer
from unipost.packing_checks import check_budget
from unipost.processes import check_single
from unipost.reference_cache import check_cache
from unipost.retention import check_best
from unipost.scalar.critic import Critic, check_critic
from unipost.scalar.objective import ScalarObjective
from unipost.sources import Source
from unipost.update import REFERENCE
from unipost.vocabulary import Distillation


@dataclass(frozen=True)
class Experiment:
    """One training run: what is trained, on what, towards what, for how long.

    model         folder in the Hugging Face layout, or `new` parts (NewModel)
    data          where the rows come from
    objective     a preset, a preset with swapped parts, or any objective
    steps         logical batches drawn; one optimiser step each, or
                  inner_epochs x minibatches
    inner_epochs  passes over every batch before the next is drawn (`old` stays)
    minibatches   optimiser steps per pass, each on its share of the prompts
    microbatches  pieces a step's batch is computed in; changes no number
    staleness     steps by which sampling runs ahead of training: a batch comes from the
                  parameters of so many steps before, and is drawn meanwhile
    sync_every    steps between two times that the sampler gets the parameters
    reference     folder of the frozen reference, the teacher of a distillation; None:
                  the model as it starts, without its adapter
    reference_cache  folder that keeps the reference's log-probs of fixed rows, computed
                  once and shared by runs; None: computed at every step
    packed_length  tokens of a row that several texts share, so that padding costs
                  nothing; None: a row per text
    held_out      rows on which the objective's loss is measured beside the evaluation
    completions   pages that show sampled completions with their numbers; None: none
    critic        the value model of an objective with gae (PPO), trained beside it
    lora          low-rank adapter that is trained in place of the model
    compute       dtype of products, what is recomputed, which attention
    mesh          devices along named axes, and which parameters they share; None: one
                  device. It changes no number, so a run may go on with another
    """

    model: str | NewModel
    data: Source
    objective: Trainable
    optimizer: Optimizer
    steps: int
    seed: int = 0
    inner_epochs: int = 1
    minibatches: int = 1
    microbatches: int = 1
    staleness: int = 0
    sync_every: int = 1
    evaluation: Evaluation | None = None
    held_out: HeldOut | None = None
    checkpoints: Checkpoints | None = None
    reference: str | None = None
    reference_cache: str | None = None
    packed_length: int | None = None
    completions: Completions | None = None
    critic: Critic | None = None
    lora: LoRA | None = None
    compute: Compute = Compute()
    mesh: Mesh | None = None

    def __post_init__(self):
        for name in ("steps", "inner_epochs", "minibatches", "microbatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}; write 1 or more")
        pieces, length = self.minibatches * self.microbatches, self.packed_length
        if length is not None and length < 1:
            raise ValueError(f"packed_length: {length}; write 1 or more, or null")
        check_budget(length, self.data)
        prompts = self.data.prompts
        if prompts % pieces:
            raise ValueError(
                f"data.prompts: {prompts} do not divide into {self.minibatches} "
                f"minibatches x {self.microbatches} microbatches"
            )
        check_staleness(self.data, self.staleness, self.sync_every)
        _check_scalar(self)
        if self.held_out is not None:
            self.held_out.check(self.objective)
        if self.mesh is not None:
            check_sequence(self.compute.attention, self.mesh.sequence)
        check_completions(self.completions, self.data, self.objective)
        filled = check_critic(self.objective, self.critic, self.data)
        check_data(self.objective, self.data, self.minibatches, filled)
        _check_reference(self.objective, self.reference, self.model)
        check_cache(self.objective, self.data, self.reference_cache)
        _check_best(self)


def open_mesh(experiment: Experiment) -> Layout | None:
    """The devices of a run and what lies where; None: one device.

    Raises ValueError where the rows of the smallest piece of a batch do not divide, and
    for several processes without a mesh: each would train by itself.
    """
    if experiment.mesh is None:
        check_single("mesh: null", "write mesh: {data: -1}, or start one process")
        return None
    data, pieces = experiment.data, experiment.minibatches * experiment.microbatches
    return experiment.mesh.open(prompts=data.prompts // pieces, group=data.rows)


def check_completions(
    completions: Completions | None, data: Source, objective: Trainable
) -> None:
    """Refuse pages of completions where no completion is sampled."""
    if completions is None:
        return
    if data.varies != "step":
        raise ValueError(
            f"completions: the rows of {type(data).__name__} are not sampled; leave it "
            "out, or write data that are sampled in every step (rollouts)"
        )
    if isinstance(objective, ScalarObjective):
        raise ValueError("completions: a scalar model writes no text; leave it out")


def check_staleness(data: Source, staleness: int, sync_every: int) -> None:
    """Refuse settings of the sampler's parameters where nothing is sampled."""
    for name, value, least in (
        ("staleness", staleness, 0),
        ("sync_every", sync_every, 1),
    ):
        if value < least:
            raise ValueError(f"{name}: {value}; write {least} or more")
        if value > least and data.varies != "step":
            raise ValueError(
                f"{name}: {value}, but the rows of {type(data).__name__} do not come "
                f"from the policy as it trains; write {name}: {least}, or data that "
                "are sampled in every step (rollouts)"
            )


def _check_scalar(experiment: Experiment) -> None:
    """Refuse what a model with a scalar head cannot do."""
    if not isinstance(experiment.objective, ScalarObjective):
        return
    kind = type(experiment.objective).__name__
    if experiment.evaluation is not None:
        raise ValueError(
            f"evaluation: tasks are answered in text, and {kind} trains a model that "
            "writes none; write held_out"
        )
    if experiment.packed_length is not None and "scores" in experiment.objective.needs:
        raise ValueError(
            f"packed_length: {kind} reads the last token of a response, which packed "
            "rows do not hold; write packed_length: null"
        )


def _check_best(experiment: Experiment) -> None:
    """Refuse checkpoints by a number that is not there when they are saved."""
    settings, tasks = experiment.checkpoints, experiment.evaluation
    if settings is None or settings.best is None:
        return
    parts = {"evaluation": tasks, "held_out": experiment.held_out}
    often = {name: part.every for name, part in parts.items() if part is not None}
    names = tasks.tasks if tasks is not None else {}
    check_best(settings.best, settings.every, experiment.steps, names, often)


def _check_reference(
    objective: Trainable, reference: str | None, model: str | NewModel
) -> None:
    """Refuse a reference that nothing reads, and a model that is its own teacher."""
    if reference is not None and not objective.needs & REFERENCE:
        raise ValueError(
            f"reference: {reference}, but the objective reads none; leave it out"
        )
    if reference in (None, model) and isinstance(objective, Distillation):
        raise ValueError(
            f"reference: {reference or 'missing'}, so the model would be its own "
            "teacher and learn nothing; write the folder of a teacher"
        )
