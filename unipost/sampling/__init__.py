"""Responses drawn from a policy, with the log-probability each token was drawn at."""

from collections.abc import Callable, Mapping

from unipost.sampling.batch import BatchSampler as BatchSampler
from unipost.sampling.batch import Samples as Samples
from unipost.sampling.batch import as_samples as as_samples
from unipost.sampling.batch import compiled_sample as compiled_sample
from unipost.sampling.batch import sample as sample
from unipost.sampling.continuous import ContinuousSampler as ContinuousSampler
from unipost.sampling.distribution import Sampling as Sampling
from unipost.sampling.distribution import candidates as candidates
from unipost.sampling.distribution import draw as draw
from unipost.sampling.protocol import Completion as Completion
from unipost.sampling.protocol import Engine as Engine
from unipost.sampling.protocol import Request as Request
from unipost.sampling.protocol import Sampler as Sampler
from unipost.sampling.remote import RemoteSampler as RemoteSampler

SAMPLERS: Mapping[str, Callable[..., Sampler]] = {
    "batch": BatchSampler,
    "continuous": ContinuousSampler,
    "remote": RemoteSampler,
}
