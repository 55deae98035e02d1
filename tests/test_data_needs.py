"""Data and objective must fit: what is accepted, and each refusal in one line."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_runs import (
    MODEL,
    SETTING,
    TINY,
    demonstrations,
    labelled,
    params_of,
    preferences,
    rollouts,
    write_labels,
)

from unipost import Batch, Mixture, part, presets
from unipost.advantages import Given
from unipost.corrections import GivenWeight, SamplerCorrection
from unipost.data import DataError
from unipost.data_needs import ABSENT, TRAINING, check_data
from unipost.divergences import DIVERGENCES
from unipost.hf import save_pretrained
from unipost.loading import load_reference
from unipost.mixed_groups import Gate
from unipost.objective import OWN
from unipost.optimizers import SGD
from unipost.presets import FAMILIES
from unipost.rollouts import Demonstration, Replay
from unipost.runs import RunError
from unipost.sampling import RemoteSampler
from unipost.scalar.reward_models import BradleyTerry, ProcessReward
from unipost.scalar.steps import LabelledSteps
from unipost.signals import Signal, ZScore
from unipost.sources import FIELDS, Demonstrations
from unipost.tokenizer import CharTokenizer
from unipost.train import Experiment

SOURCES = {
    "demonstrations": demonstrations("x.jsonl"),
    "preferences": preferences("x.jsonl"),
    "labels": labelled("x.jsonl"),
    "steps": LabelledSteps("x.jsonl", 4, 4, 3),
    "rewards": rollouts("x.jsonl"),
    "rewards+replay": rollouts("x.jsonl", guidance=(Replay(),)),
    "rewards+demonstrations": rollouts("x.jsonl", guidance=(Demonstration(),)),
}
NEEDED = {
    "f_sft": {"divergence": DIVERGENCES["pearson_chi2"]()},
    "f_dpo": {"divergence": DIVERGENCES["jensen_shannon"]()},
    "dr_grpo": {"max_length": 3.0},
    **{name: {"max_length": 3.0} for name in ("luffy", "rl_sft", "srft", "hpt")},
}
SAMPLED = {"rewards", "rewards+replay"}
GUIDED = {"rewards+replay", "rewards+demonstrations"}
# the sources that a preset accepts, where they are not those of its family
ACCEPTED = {
    "kto": {"preferences", "labels", *SAMPLED},
    "luffy": GUIDED,
    "gkd": {"demonstrations", *SAMPLED},
    "gem": {"demonstrations"},
    "ppo": set(),
}
FAMILY = {
    "demonstrations": {"demonstrations"},
    "preferences": {"preferences"},
    "rewards": SAMPLED,
    "off_policy": SAMPLED,
    "mixing": GUIDED,
}


def experiment(objective, gives="rewards", **changes):
    """An experiment of one step; nothing is read from disk."""
    if "reference" not in changes and objective == presets.gkd():
        changes["reference"] = "teacher"
    settings = {"model": TINY, "optimizer": SGD(0.1), "steps": 1, **changes}
    return Experiment(data=SOURCES[gives], objective=objective, **settings)


def refusal(call, *args, error=ValueError, **kwargs):
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_preset_takes_its_data_and_no_other(family):
    for name, make in FAMILIES[family].items():
        objective = make(**NEEDED.get(name, {}))
        accepted = ACCEPTED.get(name, FAMILY.get(family, set()))
        for gives in SOURCES:
            if gives in accepted:
                experiment(objective, gives)
            else:
                message = refusal(experiment, objective, gives)
                assert message.startswith(("data: gives", "objective: needs")), name


@pytest.mark.parametrize(
    "objective, gives", [(BradleyTerry(), "preferences"), (ProcessReward(), "steps")]
)
def test_a_reward_model_takes_its_labels_and_no_other_data(objective, gives):
    for other in SOURCES:
        if other == gives:
            experiment(objective, other)
        else:
            message = refusal(experiment, objective, other)
            assert message.startswith(("data: gives", "objective: needs")), other


def test_ppo_needs_a_critic():
    assert refusal(experiment, presets.ppo()) == (
        "objective: needs batch.values, a critic's values; write critic: {optimizer: "
        "...}, or reinforce_pp for returns per token without one"
    )


def changed(**parts):
    return replace(presets.grpo(), **parts)


@pytest.mark.parametrize(
    "objective, gives, words",
    [
        (changed(signal=Given()), "rewards", "batch.advantage.*write a signal"),
        (changed(corrections=(GivenWeight(),)), "rewards", "batch.importance.*sampler"),
        (changed(signal=ZScore(supervision="process")), "rewards", "steps.*outcome"),
        (presets.orpo(on="text"), "preferences", "batch.text.*write on: response"),
        (replace(presets.sft(), anchor="behavior"), "demonstrations", "write rollouts"),
        (presets.tis(), "labels", "data: gives labels, .* follows rewards; .*rollouts"),
        (presets.dpo(), "rewards", "follows preferences; write preferences or sampled"),
        (presets.kto(), "demonstrations", "follows preferences or labels or rewards"),
    ],
)
def test_what_no_source_gives_is_refused_by_name(objective, gives, words):
    with pytest.raises(ValueError, match=words):
        experiment(objective, gives)


def test_every_array_that_may_be_missing_has_a_remedy():
    fields = set(Batch.__dataclass_fields__) - {"mask", "weight"}
    computed = TRAINING | OWN | {"mismatched_reference"}
    assert fields - computed == ABSENT.keys()
    assert FIELDS.keys() == SOURCES.keys()


def test_terms_of_a_mixture_must_agree():
    both = Mixture((presets.dpo(), presets.sft()), (1.0, 0.5))
    assert refusal(experiment, both, "preferences") == (
        "objective.terms: one follows preferences, another demonstrations; write "
        "signal: chosen to imitate the chosen responses of preferences"
    )


def test_a_ratio_to_a_writer_that_nobody_knows_is_refused():
    luffy = presets.luffy(3.0)
    corrected = replace(luffy, corrections=(SamplerCorrection(),))
    experiment(corrected, "rewards+demonstrations")  # its ratio there is 1
    known = replace(luffy.off_policy, anchor="behavior")
    mixed = replace(luffy, off_policy=known)
    assert refusal(experiment, mixed, "rewards+demonstrations") == (
        "objective.off_policy.anchor: behavior, but nobody knows at which log-probs "
        "the demonstrations were written; write none (probability 1), or guidance: "
        "[{name: demonstration, behavior: FOLDER}]"
    )
    experiment(mixed, "rewards+replay")
    written = rollouts("x.jsonl", guidance=(Demonstration("teacher"),))
    check_data(mixed, written)


def test_a_mismatched_pair_needs_two_prompts_in_every_minibatch():
    experiment(presets.kto(), "labels", minibatches=2)
    assert refusal(experiment, presets.kto(), "labels", minibatches=4) == (
        "data.prompts: 4 in 4 minibatches; the reference point pairs a prompt with "
        "another's response; write 2 or more in each"
    )


@part
class Own(Signal):
    """Reads a critic's values and the rewards."""

    @property
    def needs(self):
        return frozenset({"rewards", "values"})

    def __call__(self, batch):
        return batch.mask * (batch.rewards[..., None] - batch.values)


class WithValues(Demonstrations):
    """A source of one's own that fills more than its kind."""

    fields = frozenset({"rewards", "values"})


def test_a_source_of_ones_own_may_give_what_no_other_does():
    objective = replace(presets.grpo(), signal=Own())
    assert "batch.values" in refusal(experiment, objective)
    data = WithValues("x.jsonl", 4, 4, 3)
    Experiment(TINY, data, objective, SGD(0.1), 1)
    strange = type("Strange", (Demonstrations,), {"gives": "songs"})("x.jsonl", 4, 4, 3)
    message = refusal(Experiment, TINY, strange, presets.sft(), SGD(0.1), 1)
    assert message.startswith("data: gives songs; a source gives one of demonstrations")


# rows with labels


def test_labelled_rows_have_rewards_one_and_zero(tmp_path):
    source = labelled(write_labels(tmp_path))
    seen = {}
    for step in range(3):
        rows, batch, _ = source.open(SETTING).batch(step, MODEL.params)[:3]
        assert rows.response.shape == (4, 1, 3)
        texts = [MODEL.tokenizer.decode(x[0].tolist()) for x in rows.prompt]
        seen |= dict(zip(texts, np.asarray(batch.rewards)[:, 0], strict=True))
    assert len(seen) == 12 and set(seen.values()) == {0.0, 1.0}
    # the file says true for sums that are odd
    assert all(v == (int(k[0]) + int(k[2])) % 2 for k, v in seen.items())


def test_both_rows_of_a_preference_are_labelled(tmp_path):
    source = preferences(write_labels(tmp_path, pairs=True))
    _, batch, _ = source.open(SETTING).batch(0, MODEL.params)[:3]
    np.testing.assert_array_equal(batch.rewards, [[1.0, 0.0]] * 4)


@pytest.mark.parametrize(
    "row, words",
    [
        ('{"prompt": "1+1=", "completion": "2"}', "'label' is missing"),
        ('{"prompt": "1+1=", "completion": "2", "label": "good"}', "'label' is 'good'"),
        (
            '{"prompt": "1+1=", "completion": "2", "label": null}',
            "'label' is None; exp",
        ),
        ('{"prompt": "1+1=", "completion": "2", "label": 2}', "2; expected true or fa"),
        (
            '{"prompt": "1+1=", "completion": "", "label": true}',
            "'completion' is empty",
        ),
    ],
)
def test_a_bad_labelled_row_is_named(row, words, tmp_path):
    file = tmp_path / "rows.jsonl"
    good = '{"prompt": "1+1=", "completion": "2", "label": 1}\n'
    file.write_text(good + row + "\n")
    message = refusal(labelled(str(file)).open, SETTING, error=DataError)
    assert message.startswith(f"{file}:2: ") and words in message


# the reference


def test_a_reference_that_nothing_reads_is_refused():
    assert refusal(experiment, presets.dapo(), reference="elsewhere") == (
        "reference: elsewhere, but the objective reads none; leave it out"
    )
    experiment(presets.grpo(), reference="elsewhere")
    experiment(presets.kto(), "labels", reference="elsewhere")


def test_a_model_is_not_its_own_teacher():
    message = refusal(experiment, presets.gkd(), "demonstrations", reference=None)
    assert message.startswith("reference: missing, so the model would be its own teach")
    same = {"reference": "base", "model": "base"}
    message = refusal(experiment, presets.gkd(), "demonstrations", **same)
    assert message.startswith("reference: base, so the model would be its own teacher")


def test_a_reference_has_the_tokens_of_the_model(tmp_path):
    assert MODEL.config is not None
    save_pretrained(tmp_path, MODEL.config, params_of(3), MODEL.tokenizer)
    found = load_reference(str(tmp_path), MODEL, whole=True)
    assert found.tokenizer == MODEL.tokenizer
    leaf = found.params["embedding"]
    np.testing.assert_array_equal(leaf, params_of(3)["embedding"])
    assert load_reference(None, MODEL, whole=True) is MODEL
    other = replace(MODEL, tokenizer=CharTokenizer("9876543210+="))
    message = refusal(load_reference, str(tmp_path), other, True, error=RunError)
    assert message.endswith(
        "its tokenizer is not the model's; write a reference with the same tokens"
    )
    wide = replace(MODEL, config=replace(MODEL.config, vocab_size=99))
    load_reference(str(tmp_path), wide, whole=False)
    message = refusal(load_reference, str(tmp_path), wide, True, error=RunError)
    assert "its vocabulary has 14 entries, the model's 99" in message


def test_a_sampler_without_log_probs_gives_no_behaviour_stream():
    silent = RemoteSampler("http://localhost/v1", "m", logprobs="none")
    told = rollouts("x.jsonl")
    check_data(presets.tis(), told)
    untold = replace(told, sampler=silent)
    check_data(presets.grpo(), untold)
    with pytest.raises(ValueError, match="needs batch.behavior, the sampler's log-pr"):
        check_data(presets.tis(), untold)


def test_a_gate_that_no_group_passes_is_refused():
    """A group of four with a demonstration has three rows that can be correct."""
    objective = presets.hpt(3.0, Gate(2))
    experiment(objective, "rewards+demonstrations")
    words = refusal(experiment, presets.hpt(3.0, Gate(3)), "rewards+demonstrations")
    assert words == (
        "objective.terms.0.signal.gate.most: 3 of 3 rows that the policy samples, so "
        "that every group fails; write a smaller number"
    )
