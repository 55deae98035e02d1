"""What an OpenAI-compatible server answers, read and checked."""

import math
from typing import Any, Literal, NoReturn

import numpy as np

from unipost.sampling.endpoint import EndpointError
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
        _refuse(url, "no choices in the answer", "a completions endpoint")
    if len(choices) != len(request.ids):
        what = f"{len(choices)} completions where {len(request.ids)} were asked for"
        _refuse(url, what, "a server that supports n")
    ordered = sorted(choices, key=lambda choice: choice.get("index", 0))
    return [_completion(choice, request, url, logps) for choice in ordered]


def _completion(
    choice: dict[str, Any], request: Request, url: str, logps: str
) -> Completion:
    tokens, finish = _tokens(choice, url), choice.get("finish_reason")
    if not 1 <= len(tokens) <= request.max_tokens:
        what = f"{len(tokens)} tokens for a budget of {request.max_tokens}"
        _refuse(url, what, "a server that honours max_tokens and returns every token")
    if finish not in ("stop", "length"):
        _refuse(url, f"finish_reason {finish!r}", "a server that is not shut down")
    ended = tokens[-1] in request.stop_tokens
    if finish == "stop" and not ended and not request.stop:
        _refuse(
            url,
            f"a completion that stops with token {tokens[-1]}, which is no stop token",
            "a server of the same model and tokenizer, which keeps the stop token",
        )
    values = np.zeros(len(tokens), np.float32)
    if logps == "absent":
        values[:] = np.nan
    elif logps == "given":
        values[:] = _logps(choice, len(tokens), url)
    return Completion(np.array(tokens, np.int32), values, "stop" if ended else finish)


def _tokens(choice: dict[str, Any], url: str) -> list[int]:
    """Token ids: as such (return_token_ids), or as vLLM's strings token_id:123."""
    tokens = choice.get("token_ids")
    if tokens is None:
        names = (choice.get("logprobs") or {}).get("tokens") or []
        if all(isinstance(x, str) and x.startswith(PREFIX) for x in names) and names:
            tokens = [x.removeprefix(PREFIX) for x in names]
    try:
        if tokens is not None:
            return [int(token) for token in tokens]
    except (TypeError, ValueError):
        pass
    # text is no substitute: encoding it again may give other tokens
    _refuse(url, "no token ids in the answer", "a server with return_token_ids")


def _logps(choice: dict[str, Any], count: int, url: str) -> list[float]:
    values = (choice.get("logprobs") or {}).get("token_logprobs")
    if not isinstance(values, list):
        _refuse(url, "no log-probs in the answer", "logprobs: none, to go without")
    if len(values) != count:
        what = f"{len(values)} log-probs for {count} tokens"
        _refuse(url, what, "a server that returns one per token")
    for value in values:
        # a little over 0 is the server's rounding
        if not isinstance(value, int | float) or not -math.inf < value < 1e-3:
            _refuse(
                url, f"the log-prob {value!r}", "a server that returns one per token"
            )
    return values


def _refuse(url: str, what: str, instead: str) -> NoReturn:
    raise EndpointError(f"{url}: {what}; use {instead}")
