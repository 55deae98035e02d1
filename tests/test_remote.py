"""The adapter for OpenAI-compatible endpoints, against a real HTTP server."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jax
import numpy as np
import pytest

from unipost.choices import REGISTRIES
from unipost.config import ConfigError, build
from unipost.policy import function_policy
from unipost.sampling import RemoteSampler, Request, Sampler, Sampling
from unipost.sampling.endpoint import EndpointError
from unipost.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer("abcdefghijk")
POLICY = function_policy(lambda params, tokens, mask: tokens)
KEY = jax.random.key(0)
ASKED = [
    Request((2, 3, 4), (0, 1), 6, (1,)),
    Request((5,), (2,), 4, (1,), ("ab",)),
    Request((6, 7), (3, 4, 5), 6, (1,)),
]


class Server:
    """A server that answers each POST by the next of `script`, then by `answer`.

    A script item is a status, or a function that writes with the handler. Everything
    received is in `bodies` and `headers`.
    """

    def __init__(self, answer, script=()):
        self.answer, self.script = answer, list(script)
        self.bodies, self.headers, self.times = [], [], []
        self.lock = threading.Lock()

    def handle(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            self.bodies.append(body)
            self.headers.append(dict(handler.headers))
            self.times.append(time.monotonic())
            step = self.script.pop(0) if self.script else None
        assert handler.path == "/v1/completions"
        if callable(step):
            step(handler)
        elif step is not None:
            say(handler, step, {"error": {"message": "busy\nhere", "code": step}})
        else:
            say(handler, 200, self.answer(body))


def say(handler, status, content, **headers):
    """Sends a JSON answer."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(text)))
    handler.end_headers()
    handler.wfile.write(text)


@contextmanager
def serving(answer, script=()):
    """(server, url) while the block runs."""
    server = Server(answer, script)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            server.handle(self)

        def log_message(self, format, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{http.server_port}/v1"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def drawn(body, index):
    """Tokens and log-probs that tell which prompt and which choice they are of."""
    tokens = [2 + (sum(body["prompt"]) + index) % 9] * (1 + index % 3) + [1]
    return tokens, [-0.5 - 0.25 * i - index for i in range(len(tokens))]


def vllm(body, style="ids", **changes):
    """The shape of vLLM's answer; choices come in any order."""
    choices = []
    for index in reversed(range(body["n"])):
        tokens, logps = drawn(body, index)
        names = [f"token_id:{token}" for token in tokens]
        logprobs = {
            "text_offset": [0] * len(tokens),
            "token_logprobs": logps,
            "tokens": names,
            "top_logprobs": [{x: y} for x, y in zip(names, logps, strict=True)],
        }
        choice = {
            "index": index,
            "text": "text",
            "logprobs": logprobs,
            "finish_reason": "stop",
            "stop_reason": 1,
            "prompt_token_ids": body["prompt"],
            "token_ids": tokens if style == "ids" else None,
        }
        choices.append(choice | changes)
    return {"id": "cmpl-1", "object": "text_completion", "choices": choices}


def sglang(body):
    """The shape of SGLang's answer: texts as tokens, ids beside them."""
    answer = vllm(body)
    for choice in answer["choices"]:
        choice["logprobs"]["tokens"] = ["x"] * len(choice["token_ids"])
        choice |= {"matched_stop": 1, "hidden_states": None}
        del choice["stop_reason"]
    return answer


def sampler(url, **changes):
    options = {"retries": 3, "backoff": 0.01, "timeout": 5.0, **changes}
    return RemoteSampler(url, "tiny", **options)


def ask(url, sampling=Sampling(6), asked=ASKED, **changes):
    engine = sampler(url, **changes).open(POLICY, TOKENIZER, sampling, 4)
    return engine({}, asked, KEY)


def check(got):
    for request, group in zip(ASKED, got, strict=True):
        assert len(group) == len(request.ids)
        for index, one in enumerate(group):
            tokens, logps = drawn({"prompt": request.prompt}, index)
            np.testing.assert_array_equal(one.tokens, tokens)
            np.testing.assert_allclose(one.logps, logps, rtol=1e-6)
            assert one.finish == "stop"


@pytest.mark.parametrize("answer", [vllm, lambda body: vllm(body, "names"), sglang])
def test_tokens_and_log_probs_are_read_in_order(answer):
    with serving(answer) as (server, url):
        check(ask(url))
        assert len(server.bodies) == len(ASKED)


def test_every_setting_of_the_draw_is_sent():
    """What is left out the server would fill in from the checkpoint's defaults."""
    cut = Sampling(6, 0.5, top_k=7, top_p=0.9, min_p=0.1)
    with serving(vllm) as (server, url):
        ask(url + "/", cut, logprobs="processed")
        bodies = {tuple(body["prompt"]): body for body in server.bodies}
        first, second = bodies[2, 3, 4], bodies[(5,)]
        ask(url, asked=ASKED[:1])
        plain = server.bodies[-1]
    assert first["model"] == "tiny" and first["stream"] is False
    assert (first["n"], first["max_tokens"], first["logprobs"]) == (2, 6, 1)
    names = "temperature", "top_k", "top_p", "min_p"
    assert [first[name] for name in names] == [0.5, 7, 0.9, 0.1]
    assert [plain[name] for name in names] == [1.0, -1, 1.0, 0.0]
    assert first["repetition_penalty"] == 1 and first["presence_penalty"] == 0
    assert first["stop_token_ids"] == [1] and first["ignore_eos"] is False
    assert second["stop"] == ["ab"] and second["include_stop_str_in_output"] is True
    assert first["seed"] != second["seed"] and 0 <= first["seed"] < 2**31
    assert first["return_token_ids"] and first["return_tokens_as_token_ids"]


def test_seeds_follow_the_key_and_the_ids():
    with serving(vllm) as (server, url):
        engine = sampler(url, workers=1).open(POLICY, TOKENIZER, Sampling(6), 4)
        for key, asked in ((0, ASKED), (0, ASKED[::-1]), (1, ASKED)):
            engine({}, asked, jax.random.key(key))
        seeds = [body["seed"] for body in server.bodies]
    assert seeds[:3] == seeds[5:2:-1]
    assert not set(seeds[:3]) & set(seeds[6:])


@pytest.mark.parametrize("status", [429, 500, 503, 408])
def test_busy_servers_are_asked_again(status):
    with serving(vllm, [status, status]) as (server, url):
        check(ask(url, workers=1))
        assert len(server.bodies) == len(ASKED) + 2
        assert server.bodies[0] == server.bodies[1] == server.bodies[2]
        waits = np.diff(server.times[:3])
        assert waits[0] >= 0.01 and waits[1] >= 0.02


def test_the_wait_that_a_server_asks_for_is_kept():
    def later(handler):
        say(handler, 429, {}, Retry_After="1")

    with serving(vllm, [later]) as (server, url):
        check(ask(url, workers=1))
        assert server.times[1] - server.times[0] >= 1.0


def test_lost_connections_are_tried_again():
    def hang_up(handler):
        handler.close_connection = True

    def half_an_answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"choices": [')

    with serving(vllm, [hang_up, half_an_answer]) as (server, url):
        check(ask(url, workers=1))
        assert len(server.bodies) == len(ASKED) + 2


def test_slow_answers_time_out_and_are_tried_again():
    def sleep(handler):
        time.sleep(0.6)

    with serving(vllm, [sleep]) as (_, url):
        check(ask(url, workers=1, timeout=0.2))
    with serving(vllm, [sleep] * 9) as (server, url):
        started = time.monotonic()
        with pytest.raises(EndpointError, match="timed out, after 2 tries; check that"):
            ask(url, workers=1, timeout=0.2, retries=1)
        assert time.monotonic() - started < 3
        # a request on a connection that the server closed meanwhile is sent anew
        assert 2 <= len(server.bodies) <= 4


def test_a_request_that_is_wrong_is_not_repeated():
    with serving(vllm, [404] * 9) as (server, url):
        with pytest.raises(EndpointError) as caught:
            ask(url, asked=ASKED[:1], workers=1)
        assert len(server.bodies) == 1
    line = f"{url}/completions: status 404, busy here; the server refuses"
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


def test_a_server_that_is_not_there_is_named():
    with serving(vllm) as (_, url):
        pass
    with pytest.raises(EndpointError, match=rf"^{url}/completions: .*after 2 tries; c"):
        ask(url, retries=1)


def test_after_a_failure_nothing_more_is_asked():
    many = [Request((2,), (i,), 6, (1,)) for i in range(50)]
    with serving(vllm, [400] * 50) as (server, url):
        with pytest.raises(EndpointError, match="status 400"):
            ask(url, asked=many, workers=2)
        assert len(server.bodies) < 10


def test_requests_are_under_way_together():
    """Four requests that each wait for all the others."""
    gate = threading.Barrier(4, timeout=10)

    def answer(body):
        gate.wait()
        return vllm(body)

    many = [Request((2,), (i,), 6, (1,)) for i in range(4)]
    with serving(answer) as (_, url):
        assert len(ask(url, asked=many, workers=4)) == 4


def changed(**changes):
    return lambda body: vllm(body, **changes)


def fewer(body):
    return {"choices": vllm(body)["choices"][1:]}


def short(body):
    answer = vllm(body)
    answer["choices"][0]["logprobs"]["token_logprobs"].pop()
    return answer


def holes(body, value=None):
    answer = vllm(body)
    answer["choices"][0]["logprobs"]["token_logprobs"][0] = value
    return answer


@pytest.mark.parametrize(
    "answer, words",
    [
        (fewer, "1 completions where 2 were asked for; use a server that supports n"),
        (short, "log-probs for . tokens"),
        (holes, "the log-prob None"),
        (lambda body: holes(body, 0.5), "the log-prob 0.5"),
        (changed(logprobs=None), "no log-probs in the answer; use logprobs: none"),
        (changed(logprobs=None, token_ids=None), "no token ids in the answer"),
        (changed(token_ids=[]), "0 tokens for a budget of 6"),
        (changed(token_ids=[2] * 7), "7 tokens for a budget of 6"),
        (changed(token_ids=["2", "x"]), "no token ids in the answer"),
        (changed(finish_reason="abort"), "finish_reason 'abort'"),
        (changed(token_ids=[1, 9]), "stops with token 9, which is no stop token"),
        (lambda body: {"error": "no"}, "no choices in the answer"),
        (lambda body: b"<html>", "the answer is not JSON"),
    ],
)
def test_answers_that_do_not_fit_are_refused(answer, words):
    with serving(answer) as (server, url):
        with pytest.raises(EndpointError, match=words) as caught:
            ask(url, asked=ASKED[:1])
        assert len(server.bodies) == 1
    assert str(caught.value).startswith(url) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "kind, sampling, left_out",
    [
        ("raw", Sampling(6, 0.7, top_p=0.9), "temperature, top_p"),
        ("raw", Sampling(6, top_k=5, min_p=0.1), "top_k, min_p"),
        ("tempered", Sampling(6, 0.7, top_p=0.9), "top_p"),
        ("raw", Sampling(6, top_p=1.0, min_p=0.0), None),
        ("tempered", Sampling(6, 0.7), None),
        ("processed", Sampling(6, 0.7, 5, 0.9, 0.1), None),
        ("none", Sampling(6, 0.7, 5, 0.9, 0.1), None),
        ("raw", Sampling(6, 0.0, top_p=0.9), None),
    ],
)
def test_log_probs_of_another_distribution_are_refused(kind, sampling, left_out):
    made = sampler("http://localhost:1/v1", logprobs=kind)
    if left_out is None:
        made.open(POLICY, TOKENIZER, sampling, 4)
        return
    words = f"sampler.logprobs: {kind} log-probs leave {left_out} out, so they are not"
    with pytest.raises(ValueError, match=words):
        made.open(POLICY, TOKENIZER, sampling, 4)


def test_log_probs_that_are_not_asked_for_are_not_known():
    with serving(changed(logprobs=None)) as (server, url):
        got = ask(url, Sampling(6, top_p=0.9), logprobs="none")
        assert "logprobs" not in server.bodies[0]
    assert all(np.isnan(one.logps).all() for one in sum(got, []))
    with serving(vllm) as (_, url):
        greedy = ask(url, Sampling(6, 0.0))
    # a greedy draw has probability 1, whatever the server says
    assert all((one.logps == 0).all() for one in sum(greedy, []))


def test_the_key_is_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("TINY_KEY", "secret")
    with serving(vllm) as (server, url):
        ask(url, key_variable="TINY_KEY")
        assert server.headers[0]["Authorization"] == "Bearer secret"
        monkeypatch.delenv("TINY_KEY")
        with pytest.raises(ValueError, match="TINY_KEY is not set in the environment"):
            ask(url, key_variable="TINY_KEY")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"url": "localhost:8000"}, "url: 'localhost:8000'; write http://host:port/v1"),
        ({"workers": 0}, "workers: 0; write 1 or more"),
        ({"retries": -1}, "retries: -1; write 0 or more"),
        ({"backoff": -1.0}, "backoff: -1.0; write 0 or more"),
        ({"timeout": 0.0}, "timeout: 0.0; write seconds > 0"),
        ({"logprobs": "exact"}, "logprobs: .*'exact'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, words):
    node = {"name": "remote", "url": "http://localhost:1/v1", "model": "tiny"}
    with pytest.raises(ConfigError, match=words):
        build(REGISTRIES[Sampler], node | changes, "sampler")
