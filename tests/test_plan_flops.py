"""The formula of FLOPs against XLA's cost analysis and against every product traced."""

from functools import partial
from math import prod

import jax
import numpy as np
import pytest
from planned import experiment_of, folder_of

from unipost.annealed import at_step
from unipost.head import scores_of
from unipost.plan import abstract
from unipost.plan.flops import forward, keys_read, linear_entries, work_of
from unipost.update import streams_of, update


def products(jaxpr, times=1.0):
    """2 n k m of every product of a jaxpr, with the lengths of its scans."""
    total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            (axes, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            summed = prod(left[i] for i in axes)
            total += times * 2.0 * equation.outvars[0].aval.size * summed
        each = times * (equation.params["length"] if name == "scan" else 1)
        for inner in inner_jaxprs(equation.params):
            total += products(inner, each)
    return total


def inner_jaxprs(params):
    for value in params.values():
        for one in value if isinstance(value, list | tuple) else (value,):
            inner = getattr(one, "jaxpr", one)
            if hasattr(inner, "eqns"):
                yield inner


def abstract_step(experiment):
    """What `update` is given, without a mesh."""
    subject = abstract.open_subject(experiment)
    sizes = abstract.sizes_of(experiment.data)
    state = abstract.state_of(experiment, subject.trained)
    rows, batch = abstract.rows_of(sizes), abstract.batch_of(experiment.data, sizes)
    return subject, sizes, state, rows, batch


def traced_update(experiment):
    subject, sizes, state, rows, batch = abstract_step(experiment)
    call = partial(update, subject.policy, microbatches=experiment.microbatches)
    objective = at_step(experiment.objective, 0)
    arguments = objective, experiment.optimizer, state, rows, batch

    def run(objective, optimizer, state, rows, batch):
        steps, frozen = np.int32(10), subject.frozen
        return call(
            objective, optimizer, state, rows, batch, steps=steps, frozen=frozen
        )

    return subject, sizes, jax.jit(run).trace(*arguments)


CASES = {
    "plain": ({}, {}),
    "no remat": ({}, {"compute": {"remat": "none", "attention": "einsum"}}),
    "dots": ({}, {"compute": {"remat": "dots", "attention": "einsum"}}),
    "all_dots": ({}, {"compute": {"remat": "all_dots", "attention": "einsum"}}),
    "tied": ({"tie_word_embeddings": True}, {}),
    "microbatches": ({}, {"microbatches": 4}),
    "bfloat16": ({}, {"compute": {"dtype": "bfloat16", "attention": "einsum"}}),
    "wide": ({"hidden_size": 96, "num_attention_heads": 6}, {}),
    "post norm": ({"model_type": "olmo2", "architectures": ["Olmo2ForCausalLM"]}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_an_update_asks_for_what_its_trace_does(case, tmp_path):
    """The formula with what is computed again equals all products of the program."""
    shape, settings = CASES[case]
    compute = {"compute": {"attention": "einsum"}}
    experiment = experiment_of(folder_of(tmp_path / "m", **shape), **compute | settings)
    subject, sizes, traced = traced_update(experiment)
    work = work_of(experiment, subject.config, sizes, {}, "tpu")["update"]
    np.testing.assert_allclose(work.hardware, products(traced.jaxpr), rtol=1e-12)
    assert work.kernel == 0 and work.model < work.hardware


def test_an_update_of_one_layer_agrees_with_xla(tmp_path):
    """XLA counts a loop once, so a single layer is counted whole; it adds the rest."""
    folder = folder_of(tmp_path / "m", num_hidden_layers=1, hidden_size=128)
    experiment = experiment_of(folder, compute={"attention": "einsum", "remat": "none"})
    subject, sizes, traced = traced_update(experiment)
    said = traced.lower().compile().cost_analysis()["flops"]
    work = work_of(experiment, subject.config, sizes, {}, "tpu")["update"]
    assert work.hardware < said < 1.25 * work.hardware


def test_logits_in_chunks_are_computed_again(tmp_path):
    """The head's forward pass once more, as the trace of a chunked reading says."""
    folder = folder_of(tmp_path / "m")
    subject, sizes, *_ = abstract_step(experiment_of(folder))
    hidden = abstract.shaped((sizes.rows, sizes.response, 64), np.float32)
    targets = abstract.shaped(hidden.shape[:2], np.int32)
    mask = abstract.shaped(hidden.shape[:2], np.bool_)

    def loss(params, hidden, targets, mask, chunk):
        head = partial(subject.policy.head, params)
        return scores_of(head, hidden, targets, mask, (), chunk).logps.sum()

    def total(chunk):
        grad = jax.jit(jax.grad(partial(loss, chunk=chunk), (0, 1)))
        return products(grad.trace(subject.params, hidden, targets, mask).jaxpr)

    head = forward(subject.config, sizes.rows, 31, targets.size, "einsum").head
    np.testing.assert_allclose(total(24), 3 * head, rtol=1e-12)
    np.testing.assert_allclose(total(8), 4 * head, rtol=1e-12)


def test_an_adapter_leaves_out_the_gradients_of_the_base(tmp_path):
    folder = folder_of(tmp_path / "m")
    lora = {"rank": 4, "targets": ["query", "value", "down"]}
    asked = {"lora": lora, "compute": {"attention": "einsum", "remat": "none"}}
    experiment = experiment_of(folder, **asked)
    subject, sizes, traced = traced_update(experiment)
    work = work_of(experiment, subject.config, sizes, {}, "tpu")["update"]
    np.testing.assert_allclose(work.hardware, products(traced.jaxpr), rtol=0.01)


def test_a_pass_that_scores(tmp_path):
    experiment = experiment_of(
        folder_of(tmp_path / "m"), "preferences", compute={"attention": "einsum"}
    )
    subject, sizes, _, rows, _ = abstract_step(experiment)
    run = partial(streams_of, subject.policy)
    traced = jax.jit(run).trace(subject.params, rows)
    work = work_of(experiment, subject.config, sizes, {}, "tpu")
    np.testing.assert_allclose(
        work["score"].hardware, products(traced.jaxpr), rtol=1e-12
    )


def test_passes_beside_the_trained_one(tmp_path):
    """DPO scores a reference; GRPO old and reference; SFT nothing."""
    folder = folder_of(tmp_path / "m")
    config = abstract.read_shape(folder)

    def work(data, **settings):
        experiment = experiment_of(folder, data, **settings)
        sizes = abstract.sizes_of(experiment.data)
        return work_of(experiment, config, sizes, {}, "tpu")

    assert set(work("demonstrations")) == {"update"}
    assert set(work("preferences")) == {"update", "score"}
    assert "score" not in work("preferences", reference_cache="kept")
    grpo = work("rollouts", objective={"name": "grpo", "kl": 0.04})
    assert set(grpo) == {"update", "score", "sample"}
    only_old = work("rollouts", objective={"name": "grpo", "kl": None})
    assert only_old["score"].model == pytest.approx(grpo["score"].model / 2)


def test_pairs_of_a_query_and_a_key():
    for length, window in ((7, None), (7, 3), (4, 9), (5, 1)):
        near = length if window is None else window
        pairs = sum(
            1 for i in range(length) for j in range(length) if 0 <= i - j < near
        )
        assert keys_read(length, window) == pairs


def test_kernels_compute_less_forward_and_more_backward(tmp_path):
    folder = folder_of(tmp_path / "m", head_dim=128, hidden_size=512)
    config = abstract.read_shape(folder)
    found = {}
    for name in ("einsum", "splash"):
        experiment = experiment_of(folder, compute={"attention": name})
        sizes = abstract.sizes_of(experiment.data)
        found[name] = work_of(experiment, config, sizes, {}, "tpu")["update"]
    assert found["splash"].model == found["einsum"].model
    assert found["splash"].kernel > 0 == found["einsum"].kernel
    every, causal = 31 * 31, keys_read(31, None)
    whole = found["einsum"].hardware - found["splash"].hardware
    wide = 4.0 * config.num_attention_heads * 128 * 16 * 3
    assert whole == pytest.approx(wide * (4 * every - 5.5 * causal))


def test_experts_count_those_that_a_token_goes_through(tmp_path):
    moe = {
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "decoder_sparse_step": 1,
        "norm_topk_prob": True,
        "mlp_only_layers": [],
    }
    config = abstract.read_shape(folder_of(tmp_path / "m", **moe))
    entries, down = linear_entries(config)
    attention = 64 * 16 * (2 * 4 + 2 * 2)
    assert entries == attention + 2 * 3 * 64 * 32 + 64 * 8
    assert down == 2 * 64 * 32
