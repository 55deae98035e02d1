"""Everything that `unipost analyze` measures, from two models and their prompts."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from unipost.analysis.calibration import confidences, reliability
from unipost.analysis.coefficients import bimodality, probability_histogram
from unipost.analysis.compare import Compared, compare
from unipost.analysis.implicit import implicit_rewards
from unipost.analysis.inputs import Texts
from unipost.analysis.latent import LatentShift, latent_shift, layer_features
from unipost.analysis.measures import (
    Measure,
    Pair,
    answer_measures,
    calibration_measures,
    diversity_measures,
    reward_measures,
    state_measures,
    text_measures,
    token_measures,
    weight_measures,
)
from unipost.analysis.pass_curves import crossing, delta_se, pass_curve, powers
from unipost.analysis.responses import Responses, draw, given
from unipost.analysis.settings import Analysis
from unipost.analysis.token_shift import by_position, shifted_tokens
from unipost.analysis.weights import weight_distance
from unipost.completions.pieces import pieces
from unipost.loading import Model
from unipost.sampling.batch import left_padded
from unipost.tokenizer import Tokenizer

LISTED = 40
"""Shifted tokens in analysis.json."""
PAPER_TOKENS = 128
"""Tokens of a text that 2507.00432's code reads for its PCA."""


class Findings(NamedTuple):
    """What was measured, and what the page shows.

    own, before  comparisons along the tuned model's and along the base's samples
    details    curves, lists and histograms for figures, as JSON values
    rewards    implicit rewards of the tuned model's and of the base's samples [N G T]
    skipped    measures that these models do not have, and why
    """

    measures: list[Measure]
    details: dict[str, Any]
    pair: Pair
    own: Compared
    before: Compared
    rewards: tuple[np.ndarray, ...]
    skipped: list[str]
    tokenizer: Tokenizer


def run(base: Model, tuned: Model, texts: Texts, asked: Analysis) -> Findings:
    """Draw responses of both models, and measure."""
    pair = Pair(
        *(draw(model, texts, asked, 1.0, asked.samples) for model in (base, tuned)),
        *(draw(model, texts, asked, 0.0, 1) for model in (base, tuned)),
    )
    own, before = (_compared(base, tuned, x, asked) for x in (pair.tuned, pair.base))
    rewards = tuple(
        implicit_rewards(x, asked.divergence, asked.beta) for x in (own, before)
    )
    found = [*answer_measures(pair), *token_measures(own, before)]
    details = _token_details(tuned, pair, own) | _answer_details(pair, own, before)
    if texts.given:
        file = given(texts, asked, tuned.tokenizer)
        of_file = _compared(base, tuned, file, asked)
        found += text_measures(of_file)
        details["file_probabilities"] = _probabilities(of_file)
    skipped = []
    shifts = _latent(base, tuned, texts)
    if shifts is None:
        skipped.append("hidden states: fewer than 3 prompts, or models of two shapes")
    else:
        found += state_measures(*shifts)
        details["layers"] = _layer_details(*shifts)
    try:
        found += weight_measures(weight_distance(base.params, tuned.params))
    except ValueError as error:
        skipped.append(f"weights: {error}")
    found += diversity_measures(pair)
    found += calibration_measures(pair, own, before)
    found += reward_measures(pair, own, rewards[0])
    both = own, before, rewards
    return Findings(found, details, pair, *both, skipped, tuned.tokenizer)


def _compared(base: Model, tuned: Model, of: Responses, asked: Analysis) -> Compared:
    same = base.config == tuned.config
    return compare(
        tuned.policy,
        base.params,
        tuned.params,
        of.rows,
        base_policy=None if same else base.policy,
        block=max(1, asked.rows // of.shape[1]),
    )


def _latent(
    base: Model, tuned: Model, texts: Texts
) -> tuple[LatentShift, LatentShift] | None:
    """The shift in both forms, on prompts with the file's responses if it has some."""
    shapes = [
        (m.config.num_hidden_layers, m.config.hidden_size)
        for m in (base, tuned)
        if m.config is not None
    ]
    if len(texts.prompts) < 3 or len(shapes) < 2 or shapes[0] != shapes[1]:
        return None
    rows = [np.concatenate([p[a], r[b]]).tolist() for p, a, r, b in _lines(texts)]
    longest = max(map(len, rows))
    whole = left_padded(rows, longest)
    cut = [row[:PAPER_TOKENS] for row in rows]
    short = left_padded(cut, min(longest, PAPER_TOKENS))
    before, after = (layer_features(m.policy, m.params, *whole) for m in (base, tuned))
    robust = latent_shift(before, after)
    before, after = (
        layer_features(m.policy, m.params, *short, over="columns")
        for m in (base, tuned)
    )
    return robust, latent_shift(before, after, "paper_code")


def _lines(texts: Texts):
    return zip(*texts.tokens[:4], strict=True)


def _token_details(tuned: Model, pair: Pair, own: Compared) -> dict[str, Any]:
    listed = shifted_tokens(np.asarray(pair.tuned.rows.response), own, LISTED)
    return {
        "shifted_tokens": [
            {"text": pieces(tuned.tokenizer, [x.token])[0].text, **x._asdict()}
            for x in listed
        ],
        "rank_shift_by_position": numbers(by_position(own)),
    }


def _answer_details(pair: Pair, own: Compared, before: Compared) -> dict[str, Any]:
    if pair.base.correct is None or pair.tuned.correct is None:
        return {}
    right = pair.base.correct, pair.tuned.correct
    sizes = powers(pair.base.shape[1])
    curves = [pass_curve(x).mean(0) for x in right]
    conf = [
        confidences(before.base.logp, before.mask),
        confidences(own.tuned.logp, own.mask),
    ]
    tables = [
        [b._asdict() for b in reliability(c, x)]
        for c, x in zip(conf, right, strict=True)
    ]
    names = "base", "tuned"
    return {
        "pass_at": {
            "k": list(sizes),
            **{n: numbers(c) for n, c in zip(names, curves, strict=True)},
            "delta_se": delta_se(*curves),
            "crossing": crossing(sizes, *curves),
        },
        "reliability": dict(zip(names, tables, strict=True)),
        "correct": {
            n: x.astype(int).tolist() for n, x in zip(names, right, strict=True)
        },
    }


def _probabilities(found: Compared) -> dict[str, Any]:
    """Histograms of the file's token probabilities under both models."""
    both = {
        name: probability_histogram(side.logp, found.mask)
        for name, side in (("base", found.base), ("tuned", found.tuned))
    }
    return {
        "edges": numbers(both["base"].edges),
        **{name: x.counts.tolist() for name, x in both.items()},
        "bimodality": {name: bimodality(x) for name, x in both.items()},
    }


def _layer_details(robust: LatentShift, paper: LatentShift) -> dict[str, Any]:
    return {
        "cka": numbers(robust.cka),
        "robust": numbers(robust.layers),
        "paper_code": numbers(paper.layers),
        "points_base": numbers(paper.base),
        "points_tuned": numbers(paper.tuned),
    }


def numbers(values: np.ndarray) -> list[Any]:
    """Nested lists of six digits."""
    return np.vectorize(lambda x: float(f"{x:.6g}"), otypes=[float])(values).tolist()
