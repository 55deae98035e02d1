"""What an OpenAI-compatible server answers, read and checked."""

import math
from typing import Any, Literal

import numpy as np

from unipost.sampling.http import EndpointError
from unipost.sampling.protocol import Completion, Request

PREFIX = "token_id:"


def completions(
    answer: Any, request: Request, url: str, logps: Literal["given", "zero", "absent"]
) -> list[Completion]:
    """The completions of `request` in an answer, in the order of their index.

    logps: "given" reads token_logprobs, "zero" is for greedy draws (probability 1),
    "absent" gives NaN. Raises EndpointError for an answer that does not fit.
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not all(isinstance(c, dict) for c in choices):
        _refuse(url, "the answer has no choices", "point sampler.url at a completions")
    if len(choices) != len(request.ids):
        _refuse(
            url,
            f"{len(choices)} completions for {len(request.ids)} asked for",
            "use a server that supports `n`",
        )
    ordered = sorted(choices, key=lambda choice: choice.get("index", 0))
    return [_completion(choice, request, url, logps) for choice in ordered]
