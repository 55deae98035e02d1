"""Meshes and settings under which a step fits, by estimates that take no time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from unipost.experiment import Experiment
from unipost.mesh import Mesh
from unipost.mesh.settings import row_order
from unipost.plan.estimate import Estimate, estimate_memory, spread_of
from unipost.plan.exchange import estimate_time
from unipost.plan.roofline import Time
from unipost.plan.topology import Topology
from unipost.rollouts import Rollouts
from unipost.sources import Demonstrations, LabelledRows, Preferences

MARGIN = 0.9
"""An estimate must stay below this share of the memory to count as fitting."""


@dataclass(frozen=True)
class Candidate:
    """A mesh for an experiment, with what a chip would hold and how long it takes.

    change  what was changed in the experiment, empty for nothing
    """

    mesh: Mesh
    estimate: Estimate
    time: Time
    experiment: Experiment
    change: str = ""

    @property
    def sizes(self) -> dict[str, int]:
        """Axes of more than one device."""
        axes = ("data", "fsdp", "tensor", "sequence", "expert")
        return {a: n for a in axes if (n := getattr(self.mesh, a)) > 1}


def candidates(experiment: Experiment, topology: Topology) -> list[Candidate]:
    """Every mesh of data, fsdp and tensor that divides, the least spread first.

    Least spread: the fewest chips for one copy of the parameters, then the fewest
    along tensor, which exchanges most.
    """
    found = []
    rules = {} if experiment.mesh is None else experiment.mesh.rules
    for data, fsdp, tensor in _splits(topology.chips):
        mesh = Mesh(data=data, fsdp=fsdp, tensor=tensor, rules=rules)
        if not _divides(experiment, mesh):
            continue
        with_mesh = dataclasses.replace(experiment, mesh=mesh)
        try:
            spread = spread_of(mesh, topology.chips)
            made = estimate_memory(with_mesh, spread, topology.platform)
        except ValueError:
            continue
        time = estimate_time(with_mesh, spread, topology)
        found.append(Candidate(mesh, made, time, with_mesh))
    return sorted(found, key=lambda c: (c.mesh.fsdp * c.mesh.tensor, c.mesh.tensor))


def fits(candidate: Candidate, topology: Topology) -> bool:
    """Whether the estimate leaves MARGIN of a chip's memory."""
    return candidate.estimate.total <= MARGIN * topology.chip.memory


def smallest(experiment: Experiment, topology: Topology) -> Candidate | None:
    """The least spread mesh whose estimate fits, None where none does."""
    every = candidates(experiment, topology)
    return next((c for c in every if fits(c, topology)), None)


def quickest(experiment: Experiment, topology: Topology) -> Candidate | None:
    """The mesh that fits by estimate whose updates take least, None where none fits."""
    every = [c for c in candidates(experiment, topology) if fits(c, topology)]
    return min(every, key=lambda c: c.time.most, default=None)


def roomiest(experiment: Experiment, topology: Topology) -> Candidate | None:
    """The mesh whose estimate is the smallest, None where none divides."""
    every = candidates(experiment, topology)
    return min(every, key=lambda c: c.estimate.total, default=None)


def remedies(experiment: Experiment, topology: Topology) -> Iterator[Candidate]:
    """Changes of settings under which some mesh fits, one at a time, then together.

    In the order of what they cost: recomputing layers and more microbatches change no
    number; moments in bfloat16 and fewer rows do. Of each the smallest change that is
    enough; several together only where none is by itself.
    """
    alone = 0
    for changes in (_recomputed, _pieces, _halved, _narrower, _fewer):
        for text, changed in changes(experiment):
            found = quickest(changed, topology)
            if found is not None:
                alone += 1
                yield dataclasses.replace(found, change=text)
                break
    names, together = [], experiment
    for text, changed in _chain(experiment) if not alone else ():
        together, names = changed, [*names, text]
        found = quickest(together, topology)
        if found is not None:
            yield dataclasses.replace(found, change=" ".join(names))
            return


Changes = Iterator[tuple[str, Experiment]]
"""(KEY=VALUE, experiment) of single changes, the smallest first."""


def _recomputed(experiment: Experiment) -> Changes:
    compute = experiment.compute
    if compute.remat != "full":
        new = dataclasses.replace(compute, remat="full")
        yield "compute.remat=full", dataclasses.replace(experiment, compute=new)


def _halved(experiment: Experiment) -> Changes:
    compute = experiment.compute
    if compute.dtype != "bfloat16":
        new = dataclasses.replace(compute, dtype="bfloat16")
        yield "compute.dtype=bfloat16", dataclasses.replace(experiment, compute=new)


def _narrower(experiment: Experiment) -> Changes:
    optimizer = experiment.optimizer
    if getattr(optimizer, "mu_dtype", "bfloat16") is None:
        new = dataclasses.replace(optimizer, **{"mu_dtype": "bfloat16"})
        text = "optimizer.mu_dtype=bfloat16"
        yield text, dataclasses.replace(experiment, optimizer=new)


def _chain(experiment: Experiment) -> Changes:
    """The changes on top of each other, each as far as it goes."""
    for changes in (_recomputed, _halved, _pieces, _narrower):
        some = list(changes(experiment))
        if some:
            text, experiment = some[-1]
            yield text, experiment


def _pieces(experiment: Experiment) -> Changes:
    """More microbatches, down to a prompt each."""
    count = experiment.microbatches * 2
    most = experiment.data.prompts // experiment.minibatches
    while count <= most:
        if most % count == 0:
            text = f"microbatches={count}"
            yield text, dataclasses.replace(experiment, microbatches=count)
        count *= 2


def _fewer(experiment: Experiment) -> Changes:
    """Half and a quarter of the prompts, where the data has that setting."""
    data, pieces = experiment.data, experiment.minibatches * experiment.microbatches
    if not isinstance(data, Demonstrations | Preferences | LabelledRows | Rollouts):
        return
    for share in (2, 4):
        count = data.prompts // share
        if count >= 1 and count % pieces == 0:
            new = dataclasses.replace(data, prompts=count)
            yield f"data.prompts={count}", dataclasses.replace(experiment, data=new)


def _splits(chips: int) -> Iterator[tuple[int, int, int]]:
    """(data, fsdp, tensor) with this product; tensor within one host of 8."""
    for tensor in (1, 2, 4, 8):
        if chips % tensor:
            continue
        rest = chips // tensor
        for fsdp in (n for n in range(1, rest + 1) if rest % n == 0):
            yield rest // fsdp, fsdp, tensor


def _divides(experiment: Experiment, mesh: Mesh) -> bool:
    """Whether the rows of the smallest piece come out even over the devices."""
    data, pieces = experiment.data, experiment.minibatches * experiment.microbatches
    sizes = mesh.sizes(mesh.data * mesh.fsdp * mesh.tensor)
    try:
        row_order(sizes, data.prompts // pieces, data.rows)
    except ValueError:
        return False
    return True
