"""Objectives as YAML: every name, every swap, the way back, and mistakes in a line."""

import importlib
import pkgutil

import pytest

import unipost
from unipost import Mixture, Objective, presets
from unipost.aggregation import Aggregation
from unipost.choices import REGISTRIES, SIGNALS
from unipost.classical import JensenShannon, PearsonChi2
from unipost.config import build, dump_tree, load_tree, to_tree
from unipost.corrections import Confidence, Correction, SamplerCorrection, TopEntropy
from unipost.divergence import Divergence
from unipost.links import Link, Weighted
from unipost.objectives import OBJECTIVES, AnyObjective, margin_score
from unipost.pair_links import Logistic, PairLink
from unipost.ratios import GeometricClip, Ratio
from unipost.reference_points import ReferencePoint
from unipost.signals import Chosen, Mean, Signal, ZScore
from unipost.train import Experiment
from unipost.tree import ConfigError
from unipost.vocabulary import Distillation, Gem
from unipost.weights import Mask, Truncate, Weight

NEEDED = {
    "f_sft": {"divergence": "pearson_chi2"},
    "f_dpo": {"divergence": "jensen_shannon"},
    "dr_grpo": {"max_length": 3},
    **{name: {"max_length": 3} for name in ("luffy", "rl_sft", "srft", "hpt")},
}


def made(text, folder, overrides=()):
    """The objective that a line of YAML and overrides describe."""
    (folder / "x.yaml").write_text(f"objective: {text}\n")
    tree = load_tree(folder / "x.yaml", overrides)
    return build(AnyObjective, tree["objective"], "objective", "x.yaml")


def refusal(text, folder, overrides=()):
    with pytest.raises(ConfigError) as caught:
        made(text, folder, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix("x.yaml: ")


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_is_written_out_and_read_again(name, tmp_path):
    node = {"name": name, **NEEDED.get(name, {})}
    objective = build(AnyObjective, node)
    file, text = tmp_path / "x.yaml", dump_tree(to_tree(objective, AnyObjective))
    file.write_text(text)
    tree = load_tree(file)
    assert build(AnyObjective, tree) == objective
    # by names, but for what a function makes
    assert "unipost." not in text.replace("unipost.parametric:UnitCurvature", "")
    assert tree["name"] in OBJECTIVES


SWAPS = [
    (
        "{name: grpo, corrections: [{name: sampler_correction, weight: {name: mask, "
        "cap: 3}}]}",
        lambda o: o.corrections == (SamplerCorrection(Mask(3.0)),),
    ),
    (
        "{name: grpo, corrections: [sampler_correction, {name: top_entropy, "
        "share: 0.2}]}",
        lambda o: o.corrections == (SamplerCorrection(), TopEntropy(0.2)),
    ),
    (
        "{name: tis, corrections: {'0': {level: sequence, weight: {cap: 5}}}}",
        lambda o: o.corrections == (SamplerCorrection(Truncate(5.0), "sequence"),),
    ),
    (
        "{name: gspo, ratio: {name: geometric_clip, low: 0.1}}",
        lambda o: o.ratio == GeometricClip(0.1) and o.level == "sequence_mean",
    ),
    (
        "{name: cispo, link: {weight: {cap: 2}}}",
        lambda o: o.link == Weighted(Truncate(2.0), "old"),
    ),
    ("{name: dpo, link: hinge}", lambda o: type(o.link).__name__ == "Hinge"),
    (
        "{name: dpo, link: {smoothing: 0.1}, corrections: [confidence]}",
        lambda o: o.link == Logistic(0.1) and o.corrections == (Confidence(),),
    ),
    ("{name: kto, reference_point: null}", lambda o: o.reference_point is None),
    (
        "{name: grpo, signal: {name: exponential, tau: 0.5, advantage: z_score}}",
        lambda o: o.signal.tau == 0.5 and o.signal.advantage == ZScore(),
    ),
    (
        "{name: orpo, terms: {'1': {link: {smoothing: 0.1}}}}",
        lambda o: o.terms[1].link == Logistic(0.1) and o.terms[0].signal == Chosen(),
    ),
    ("{name: orpo, weights: [1, 0.5]}", lambda o: o.weights == (1.0, 0.5)),
    (
        "{name: mixture, terms: [dpo, {name: sft, signal: chosen}], weights: [1, .2]}",
        lambda o: o == Mixture((presets.dpo(), Objective(signal=Chosen())), (1.0, 0.2)),
    ),
    ("{name: gem, beta: 0.5, h: log_sigmoid}", lambda o: o == Gem(0.5, "log_sigmoid")),
    (
        "{name: gkd, divergence: jensen_shannon}",
        lambda o: o == Distillation(JensenShannon()),
    ),
    (
        "{name: distillation, divergence: {name: alpha, a: 0.3}, temperature: 2}",
        lambda o: o.divergence.a == 0.3 and o.temperature == 2.0,
    ),
    (
        "{name: custom, divergence: pearson_chi2, anchor: reference, signal: mean, "
        "link: linear, waived: [pointwise_normaliser]}",
        lambda o: o.divergence == PearsonChi2() and o.signal == Mean(),
    ),
]


@pytest.mark.parametrize("text, holds", SWAPS)
def test_any_part_can_be_swapped(text, holds, tmp_path):
    objective = made(text, tmp_path)
    assert holds(objective)
    assert build(AnyObjective, to_tree(objective, AnyObjective)) == objective


def test_items_of_a_list_are_edited_by_position_on_the_command_line(tmp_path):
    text = "{name: grpo, corrections: [{name: sampler_correction, level: sequence}]}"
    changed = made(text, tmp_path, ["objective.corrections.0.weight.cap=7"])
    assert changed.corrections == (SamplerCorrection(Truncate(7.0), "sequence"),)
    swapped = made(text, tmp_path, ["objective.corrections.0=confidence"])
    assert swapped.corrections == (Confidence(),)
    of_preset = made("tis", tmp_path, ["objective.corrections.0.level=sequence"])
    assert of_preset == presets.tis(level="sequence")
    weights = made("orpo", tmp_path, ["objective.weights.1=0.3"])
    assert weights == presets.orpo(0.3)


def test_names_of_other_libraries(tmp_path):
    for text in ("trl.dpo", "unipost.trl:dpo", "{name: trl.dpo, beta: 0.3}"):
        objective = made(text, tmp_path)
        assert isinstance(objective, Objective) and isinstance(objective.link, Logistic)
    assert isinstance(made("verl.policy_loss", tmp_path), Objective)
    message = refusal("trl.dqo", tmp_path)
    assert message == (
        "objective: unknown 'dqo'; did you mean 'dpo'? (not in module unipost.trl)"
    )


@pytest.mark.parametrize(
    "text, words",
    [
        ("{grpo: {}, kl: 0.1}", "objective: write {name: grpo, ...}, not {grpo: ...}"),
        (
            "{name: grpo, corrections: [{sampler_correction: {}}]}",
            "objective.corrections.0: write {name: sampler_correction, ...}, not "
            "{sampler_correction: ...}",
        ),
        (
            "{name: grpo, corrections: sampler_correction}",
            "objective.corrections: expected a list, got 'sampler_correction'",
        ),
        (
            "{name: grpo, corrections: {name: sampler_correction}}",
            "objective.corrections: expected a list, got a mapping",
        ),
        (
            "{name: tis, corrections: {'1': {level: sequence}}}",
            "objective.corrections.1: no such item; write the whole list",
        ),
        (
            "{name: grpo, corrections: [sampler_corection]}",
            "objective.corrections.0: unknown 'sampler_corection'; did you mean "
            "'sampler_correction'? (one of sampler_correction, ",
        ),
        (
            "{name: cispo, link: {weight: truncat}}",
            "objective.link.weight: unknown 'truncat'; did you mean 'truncate'?",
        ),
        (
            "{name: dpo, link: logistc}",
            "objective.link: unknown 'logistc'; did you mean 'logistic'? (one of ",
        ),
        (
            "{name: dpo, link: truncate}",
            "objective.link: unknown 'truncate' (one of linear, ",
        ),
        (
            "{name: gspo, ratio: {name: geometric_clip, lo: 1}}",
            "objective.ratio.lo: unknown 'lo'; did you mean 'low'? (geometric_clip "
            "takes low, high)",
        ),
        (
            "{name: gspo, ratio: {name: geometric_clip, low: -1}}",
            "objective.ratio: geometric_clip.low: -1 is not positive",
        ),
        (
            "{name: grpo, signal: {name: exponential, advantage: ones}}",
            "objective.signal.advantage: 'ones' is not a Advantage",
        ),
        (
            "{name: mixture, terms: [dpo, orpo], weights: [1, 1]}",
            "objective.terms.1: 'orpo' makes a Mixture, not a Objective",
        ),
        (
            "{name: mixture, terms: [dpo], weights: [1]}",
            "objective: mixture: 1 terms and 1 weights; write two or more of each",
        ),
        (
            "{name: orpo, beta: 0.1}",
            "objective.beta: unknown 'beta' (orpo takes weight",
        ),
        (
            "fractions:Fraction",
            "'fractions:Fraction' is not a Objective | Mixture | Voc",
        ),
        (
            "{name: tis, cap: 3, corrections: []}",
            "cap: has no effect beside correction",
        ),
        ("{name: dpo, signal: mean}", "objective.signal: Mean with a pair link; write"),
    ],
)
def test_mistakes_are_one_line(text, words, tmp_path):
    assert words in refusal(text, tmp_path)


def test_every_part_of_the_library_has_a_name():
    """Aliases of other libraries aside: a new class that no registry knows fails."""
    for module in pkgutil.iter_modules(unipost.__path__):
        if not module.ispkg and module.name != "__main__":
            importlib.import_module(f"unipost.{module.name}")

    def kinds(base):
        for kind in base.__subclasses__():
            if kind.__module__.count(".") == 1 and kind.__module__[:7] == "unipost":
                if not getattr(kind, "__abstractmethods__", None):
                    yield kind
                yield from kinds(kind)

    bases = (Divergence, Link, PairLink, Ratio, Weight, Correction, ReferencePoint)
    for base in (*bases, Signal, Aggregation):
        known = set(REGISTRIES[base].values())
        missing = {kind for kind in kinds(base) if kind not in known}
        assert not {k.__name__ for k in missing} - {"UnitCurvature", "Adjoint"}
    assert set(SIGNALS.values()) == set(kinds(Signal))


def test_the_registries_of_an_experiment_are_these():
    from unipost.config import CHOICES

    assert Experiment and all(CHOICES[kind] is REGISTRIES[kind] for kind in REGISTRIES)


def test_a_margin_is_measured_by_a_pair_link_on_the_reference():
    assert margin_score(presets.f_dpo(JensenShannon())) == presets.f_dpo(
        JensenShannon()
    )
    mixed = Mixture((Objective(signal=Chosen()), presets.dpo()), (1.0, 1.0))
    assert margin_score(mixed) == presets.dpo()
    for objective in (presets.simpo(), presets.orpo(), presets.kto(), presets.gem()):
        assert margin_score(objective) is None
    assert margin_score(None) is None
