"""Completions from an OpenAI-compatible endpoint (vLLM, SGLang), by HTTP."""

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import numpy as np

from unipost.policy import Array, Params, Policy
from unipost.processes import everyones, split
from unipost.sampling.answers import completions
from unipost.sampling.batch import row_keys
from unipost.sampling.distribution import Sampling
from unipost.sampling.endpoint import Endpoint
from unipost.sampling.protocol import Completion, Engine, Request, check_requests
from unipost.tokenizer import Tokenizer

# What no server may change on its own: vLLM fills fields that are left out from the
# checkpoint's generation_config.json, which often has penalties and cuts.
NEUTRAL: dict[str, Any] = {
    "stream": False,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "skip_special_tokens": True,
    # both engines' names for: the token that completes a stop string stays
    "include_stop_str_in_output": True,
    "no_stop_trim": True,
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
}


@dataclass(frozen=True)
class RemoteSampler:
    """POST {url}/completions for every request, `workers` at a time.

    url            up to and with /v1
    model          the name the server gives the model
    logprobs       what the server's log-probs are of:
                   raw        the model's softmax (vLLM's default)
                   tempered   softmax(logits / temperature) (SGLang's default)
                   processed  after temperature and cuts (vLLM with --logprobs-mode
                              processed_logprobs)
                   none       not asked for: the completions hold NaN
    workers        requests under way at once
    timeout        seconds that a connection, or an answer, may take
    retries        of a request after a lost connection, a time-out, or status 408, 429
                   or 5xx; other errors are not retried
    backoff        seconds before the first retry, doubled for every further one
    key_variable   environment variable that holds the API key

    The weights are the server's: parameters are not sent, so between updates of the
    server the samples are stale, and a sampler_correction answers for it. Seeds are
    sent; whether they reproduce is the server's affair. Of several processes each sends
    its share of the requests, `workers` at once. Proxies of the environment are not
    used. Raises ValueError where `logprobs` are not those of the draw.
    """

    url: str
    model: str
    logprobs: Literal["raw", "tempered", "processed", "none"] = "raw"
    workers: int = 16
    timeout: float = 600.0
    retries: int = 4
    backoff: float = 1.0
    key_variable: str | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(
                f"sampler.url: {self.url!r}; write http://host:port/v1 or https://..."
            )
        for name, value, low in (
            ("workers", self.workers, 1),
            ("retries", self.retries, 0),
            ("backoff", self.backoff, 0),
        ):
            if value < low:
                raise ValueError(f"sampler.{name}: {value}; write {low} or more")
        if not self.timeout > 0:
            raise ValueError(f"sampler.timeout: {self.timeout}; write seconds > 0")

    def open(
        self,
        policy: Policy,
        tokenizer: Tokenizer,
        sampling: Sampling,
        prompt_length: int,
    ) -> Engine:
        self._check_exact(sampling)
        headers = {"Content-Type": "application/json"}
        if self.key_variable is not None:
            if self.key_variable not in os.environ:
                raise ValueError(
                    f"sampler.key_variable: {self.key_variable} is not set in the "
                    "environment; export it"
                )
            headers["Authorization"] = f"Bearer {os.environ[self.key_variable]}"
        url = self.url.rstrip("/") + "/completions"
        endpoint = Endpoint(url, headers, self.timeout, self.retries, self.backoff)
        return _RemoteEngine(self, endpoint, tokenizer, sampling, prompt_length)

    def _check_exact(self, sampling: Sampling) -> None:
        temperature = float(sampling.temperature)
        if self.logprobs in ("processed", "none") or temperature == 0:
            return
        changes = {
            "temperature": temperature != 1 and self.logprobs == "raw",
            "top_k": sampling.top_k is not None,
            "top_p": (sampling.top_p or 1) < 1,
            "min_p": (sampling.min_p or 0) > 0,
        }
        names = ", ".join(name for name, changed in changes.items() if changed)
        if names:
            raise ValueError(
                f"sampler.logprobs: {self.logprobs} log-probs leave {names} out, so "
                "they are not those of the draw; write processed for a server started "
                "with --logprobs-mode processed_logprobs, or none"
            )


@dataclass(frozen=True)
class _RemoteEngine:
    settings: RemoteSampler
    endpoint: Endpoint
    tokenizer: Tokenizer
    sampling: Sampling
    prompt_length: int

    def __call__(
        self, params: Params, requests: Sequence[Request], key: Array
    ) -> list[list[Completion]]:
        check_requests(requests, self.sampling, self.prompt_length, self.tokenizer)
        keys = row_keys(key, np.array([r.ids[0] for r in requests], np.int32))
        bits = jax.vmap(partial(jax.random.bits, dtype="uint32"))(keys)
        seeds = np.asarray(bits) >> 1  # 31 bits: every server takes them
        # each of several processes asks for its share
        own = split(len(requests))
        each = everyones(lambda: self.asked(requests[own], seeds[own].tolist()))
        return [drawn for some in each for drawn in some]

    def asked(
        self, requests: Sequence[Request], seeds: Sequence[int]
    ) -> list[list[Completion]]:
        """The completions of requests with their seeds, several under way at once."""
        stop = threading.Event()

        def answer(request: Request, seed: int) -> list[Completion]:
            found = self.endpoint.post(self.payload(request, seed), stop)
            wanted = self.settings.logprobs != "none"
            greedy = float(self.sampling.temperature) == 0
            logps = "zero" if greedy else "given" if wanted else "absent"
            drawn = completions(found, request, self.endpoint.url, logps)
            return [_after(request.given, one) for one in drawn]

        pool = ThreadPoolExecutor(self.settings.workers)
        try:
            pairs = zip(requests, seeds, strict=True)
            futures = [pool.submit(answer, *pair) for pair in pairs]
            return [future.result() for future in futures]
        finally:
            # after a failure the others are not waited for
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def payload(self, request: Request, seed: int) -> dict[str, Any]:
        """The body of one POST: every setting that shapes the draw is spelled out."""
        sampling = self.sampling
        body = NEUTRAL | {
            "model": self.settings.model,
            "prompt": [*request.prompt, *request.given],
            "n": len(request.ids),
            "max_tokens": request.max_tokens - len(request.given),
            "temperature": float(sampling.temperature),
            "top_k": -1 if sampling.top_k is None else sampling.top_k,
            "top_p": 1.0 if sampling.top_p is None else sampling.top_p,
            "min_p": 0.0 if sampling.min_p is None else sampling.min_p,
            "seed": seed,
            "stop": list(request.stop),
            "stop_token_ids": list(request.stop_tokens),
            # SGLang lets it switch all stop tokens off, so only where there are none
            "ignore_eos": not request.stop_tokens,
        }
        return body if self.settings.logprobs == "none" else body | {"logprobs": 1}


def _after(given: tuple[int, ...], drawn: Completion) -> Completion:
    """A completion with the tokens before it that were given."""
    if not given:
        return drawn
    tokens = np.concatenate([np.array(given, drawn.tokens.dtype), drawn.tokens])
    unknown = np.full(len(given), np.nan, drawn.logps.dtype)
    return Completion(tokens, np.concatenate([unknown, drawn.logps]), drawn.finish)
