"""One POST of JSON with a time-out and retries, on the standard library."""

import http.client
import json
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

RETRIED = (408, 429, *range(500, 600))


class EndpointError(RuntimeError):
    """An endpoint that cannot be used: one line with its URL and what to do."""


@dataclass(frozen=True)
class Endpoint:
    """Where and how to POST; see `unipost.sampling.remote.RemoteSampler`."""

    url: str
    headers: dict[str, str]
    timeout: float
    retries: int
    backoff: float

    def post(self, payload: dict[str, Any], stop: threading.Event) -> Any:
        """The answer to `payload`, as JSON. `stop` set elsewhere ends the waiting.

        Raises EndpointError for a status that is not retried, an answer that is not
        JSON, and when the retries are used up.
        """
        problem = ""
        for attempt in range(self.retries + 1):
            wait = self.backoff * 2**attempt
            try:
                return self._read(payload)
            except urllib.error.HTTPError as error:
                problem = f"status {error.code}, {_reason(error)}"
                if error.code not in RETRIED:
                    raise EndpointError(
                        f"{self.url}: {problem}; the server refuses this request: "
                        "correct sampler.url, sampler.model or the sampling settings"
                    ) from error
                after = error.headers.get("Retry-After", "")
                wait = max(wait, float(after) if after.isdecimal() else 0.0)
            except (OSError, http.client.HTTPException) as error:
                problem = str(getattr(error, "reason", error)) or type(error).__name__
            if attempt < self.retries and stop.wait(min(wait, self.timeout)):
                break
        raise EndpointError(
            f"{self.url}: {problem}, after {self.retries + 1} tries; check that the "
            "server runs there, or raise sampler.timeout or sampler.retries"
        )

    def _read(self, payload: dict[str, Any]) -> Any:
        body = json.dumps(payload).encode()
        request = urllib.request.Request(self.url, body, self.headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=self.timeout) as answer:
            text = answer.read()
        try:
            return json.loads(text)
        except ValueError as error:
            raise EndpointError(
                f"{self.url}: the answer is not JSON; write the url of an "
                "OpenAI-compatible server, up to and with /v1"
            ) from error


def _reason(error: urllib.error.HTTPError) -> str:
    """What the server says of an error, in one line of at most 200 characters."""
    text = error.read().decode(errors="replace")
    try:
        found = json.loads(text)
        found = found.get("error", found)
        text = found.get("message", text) if isinstance(found, dict) else str(found)
    except (ValueError, AttributeError):
        pass
    return " ".join(str(text).split())[:200] or str(error.reason)
