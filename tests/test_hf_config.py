"""config.json in both spellings: read as transformers reads it, written, refused."""

import dataclasses
from pathlib import Path

import pytest
from checkpoints import BOTH, NAMES, fields
from transformers import AutoConfig

from unipost.hf.config import canonical, parse_config, render_config
from unipost.hf.families import FAMILIES
from unipost.model import Experts, LinearRope, Llama3Rope, ModelConfig

PATH = Path("here/config.json")
FULL, SLIDING = "full_attention", "sliding_attention"
# Sizes must be in the file: a default would only move the error to the tensors.
SIZES = ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size")
NEEDED = {"model_type", "intermediate_size", "moe_intermediate_size", *SIZES}
PLAIN = ModelConfig(vocab_size=9, layer_types=("full",) * 4, attention_scale=0.25)


def parse(content):
    return parse_config(content, PATH)


def completed(content):
    """The config.json that transformers writes for this one."""
    kind = content["model_type"]
    rest = {key: value for key, value in content.items() if key != "model_type"}
    return AutoConfig.for_model(kind, **rest).to_dict()


def one(kind):
    """A config.json of a family."""
    return next(fields(name) for name in BOTH if fields(name)["model_type"] == kind)


@pytest.mark.parametrize("name", BOTH)
def test_both_spellings_are_one_model(name):
    assert parse(fields(name)) == parse(fields(name, "config_v4.json"))


@pytest.mark.parametrize("file", ["config.json", "config_v4.json"])
@pytest.mark.parametrize("name", BOTH)
def test_absent_fields_mean_what_they_mean_in_transformers(name, file):
    whole = fields(name, file)
    for absent in sorted(set(whole) - NEEDED):
        content = {key: value for key, value in whole.items() if key != absent}
        try:
            want = parse(completed(content))
        except ValueError as error:
            # the default does not fit these small sizes
            with pytest.raises(ValueError) as ours:
                parse(content)
            assert str(ours.value) == str(error), absent
            continue
        assert parse(content) == want, absent


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read_by_both_and_means_the_same(name):
    config = parse(fields(name))
    written = render_config(config, "bfloat16")
    assert parse(written) == config
    assert parse(completed(written)) == config
    old = {key: value for key, value in written.items() if key != "rope_parameters"}
    assert parse(old) == config
    new = {
        key: value
        for key, value in written.items()
        if key not in ("rope_theta", "rope_scaling", "rope_local_base_freq")
    }
    assert parse(new) == config


CHANGES = [
    {},
    {"tie_word_embeddings": False, "max_position_embeddings": 77},
    {"rope_scaling": LinearRope(3.0), "rope_theta": 123.0},
    {"rope_scaling": Llama3Rope(8.0, 1.0, 4.0, 64)},
    {"attention_bias": "qkvo", "mlp_bias": True},
    {"attention_bias": "qkv"},
    {"qk_norm": "head", "attention_bias": "qkvo"},
    {"qk_norm": "width", "norms": "after"},
    {"layer_types": ("sliding",) * 4, "sliding_window": 3},
    {"layer_types": ("full", "full", "sliding", "full"), "sliding_window": 3},
    {"no_rope_layers": (3, 1)},
    {"rotary_dim": 12},
    {"rotary_dim": 16, "num_key_value_heads": 4},
    {"experts": Experts(3, 2)},
    {"experts": Experts(3, 2, False), "qk_norm": "head"},
    {"activation": "gelu"},
    {"activation": "gelu_tanh", "norm_offset": 1.0, "embedding_scale": 8.0},
    {
        "activation": "gelu_tanh",
        "norm_offset": 1.0,
        "embedding_scale": 8.0,
        "norms": "both",
        "qk_norm": "head",
    },
    {
        "activation": "gelu_tanh",
        "norm_offset": 1.0,
        "embedding_scale": 8.0,
        "norms": "both",
        "attention_scale": 24**-0.5,
        "attention_softcap": 5.0,
        "layer_types": ("sliding", "full", "full", "full"),
        "sliding_window": 9,
    },
    {
        "activation": "gelu_tanh",
        "norm_offset": 1.0,
        "embedding_scale": 8.0,
        "norms": "both",
        "qk_norm": "head",
        "logit_softcap": 5.0,
        "layer_types": ("sliding", "full", "full", "full"),
        "sliding_window": 9,
        "local_rope_theta": 55.0,
        "rope_scaling": LinearRope(8.0),
    },
]


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_model_is_written_exactly_or_refused_by_name(kind):
    written = []
    for change in CHANGES:
        config = dataclasses.replace(PLAIN, family=kind, **change)
        try:
            content = render_config(config, "float32")
        except ValueError as error:
            assert str(error).startswith("ModelConfig."), error
            assert "\n" not in str(error)
            continue
        written.append(change)
        assert parse(content) == canonical(config)
        assert parse(completed(content)) == canonical(config)
    assert written, f"no {kind} model among CHANGES"


def test_the_refusal_of_a_model_names_the_family_that_has_it():
    config = dataclasses.replace(PLAIN, attention_bias="qkv")
    words = "ModelConfig.attention_bias is 'qkv', which no llama .*family='qwen2' has"
    with pytest.raises(ValueError, match=words):
        render_config(config, "float32")
    config = dataclasses.replace(PLAIN, attention_scale=0.3)
    with pytest.raises(ValueError, match="attention_scale .*no supported family has"):
        render_config(config, "float32")
    config = dataclasses.replace(PLAIN, family="phi3", rope_scaling=LinearRope(2.0))
    with pytest.raises(ValueError, match="rope_scaling .*no phi3.*family='llama' has"):
        render_config(config, "float32")
    with pytest.raises(ValueError, match="ModelConfig.family is 'gpt2'; give one of"):
        render_config(dataclasses.replace(PLAIN, family="gpt2"), "float32")


# kind, edits, the field that the error names
REFUSED = [
    ("llama", {"model_type": "gpt2"}, "model_type = 'gpt2'"),
    ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "architectures"),
    ("llama", {"attention_dropout": 0.1}, "attention_dropout = 0.1"),
    ("llama", {"hidden_act": "relu"}, "hidden_act = 'relu'"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
    ("llama", {"is_causal": False}, "is_causal = False"),
    ("llama", {"per_layer_config": {"0": {"head_dim": 4}}}, "per_layer_config"),
    ("llama", {"auto_map": {"AutoConfig": "x.Y"}}, "auto_map"),
    ("llama", {"sliding_window": 64}, "sliding_window = 64"),
    ("llama", {"layer_types": [FULL, SLIDING]}, "layer_types"),
    ("llama", {"attention_chunk_size": 8}, "attention_chunk_size = 8"),
    ("llama", {"embedding_multiplier": 2.0}, "embedding_multiplier = 2.0"),
    ("llama", {"no_rope_layers": [1, 0]}, "no_rope_layers"),
    ("llama", {"original_max_position_embeddings": 8}, "original_max_position_emb"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
    ("llama", {"rope_theta": 7.0}, "rope_theta = 7.0"),
    ("llama", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling"),
    ("llama", {"rope_scaling": {"type": "default"}}, "rope_scaling"),
    ("llama", {"rope_scaling": {"rope_type": "linear"}}, "rope_scaling"),
    ("llama", {"rope_parameters": {"rope_type": "dynamic"}}, "rope_parameters"),
    ("llama", {"rope_parameters": {"factor": 8.0}}, "rope_parameters"),
    ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary"),
    ("llama", {"rope_parameters": {"mrope_section": [1, 2]}}, "rope_parameters"),
    ("llama", {"vocab_size": "64"}, "vocab_size = '64'"),
    ("llama", {"rms_norm_eps": None}, "rms_norm_eps = None"),
    ("llama", {"tie_word_embeddings": None}, "tie_word_embeddings = None"),
    ("mistral", {"attention_bias": True}, "attention_bias = True"),
    ("mistral", {"sliding_window": 6, "layer_types": [FULL, FULL]}, "layer_types"),
    ("qwen2", {"attention_bias": False}, "attention_bias = False"),
    ("qwen2", {"use_mrope": True}, "use_mrope = True"),
    ("qwen2", {"use_sliding_window": False}, "layer_types"),
    ("qwen2", {"layer_types": [FULL]}, "layer_types"),
    ("qwen2", {"layer_types": [FULL, FULL, "chunked_attention"]}, "layer_types"),
    ("qwen2", {"dual_chunk_attention_config": {}}, "dual_chunk_attention_config"),
    ("qwen3", {"layer_types": [FULL, SLIDING]}, "layer_types"),
    ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ("gemma", {"hidden_activation": "gelu"}, "hidden_activation = 'gelu'"),
    ("gemma2", {"hidden_act": "silu"}, "hidden_act = 'silu'"),
    ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar = 0"),
    ("gemma2", {"sliding_window": None}, "layer_types"),
    ("gemma2", {"sliding_window_size": 7}, "sliding_window_size = 7"),
    ("gemma3_text", {"attn_logit_softcapping": 5.0}, "attn_logit_softcapping"),
    ("gemma3_text", {"rope_parameters": {"rope_theta": 7.0}}, "rope_parameters"),
    ("gemma3_text", {"rope_scaling": {"type": "linear", "factor": 3.0}}, "rope_sca"),
    ("gemma3_text", {"rope_local_base_freq": 7.0}, "rope_local_base_freq = 7.0"),
    (
        "gemma3_text",
        {"rope_parameters": {SLIDING: {"rope_type": "linear", "factor": 2.0}}},
        "rope_parameters.sliding_attention",
    ),
    ("phi3", {"rope_scaling": {"type": "longrope"}}, "rope_scaling"),
    ("phi3", {"resid_pdrop": 0.1}, "resid_pdrop = 0.1"),
    ("phi3", {"lm_head_bias": True}, "lm_head_bias = True"),
    ("smollm3", {"no_rope_layers": [1, 0]}, r"no_rope_layers = \[1, 0\]"),
    ("mixtral", {"router_jitter_noise": 0.1}, "router_jitter_noise = 0.1"),
    ("mixtral", {"output_router_logits": True}, "output_router_logits = True"),
    ("mixtral", {"num_experts": 7}, "num_experts = 7"),
    ("qwen3_moe", {"mlp_only_layers": [0]}, r"mlp_only_layers = \[0\]"),
    ("qwen3_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step = 2"),
    ("qwen3_moe", {"num_local_experts": 0}, "num_experts = 0"),
    ("qwen3_moe", {"shared_expert_intermediate_size": 8}, "shared_expert"),
]


@pytest.mark.parametrize("kind, edits, words", REFUSED)
def test_what_is_not_computed_is_refused_by_name(kind, edits, words):
    with pytest.raises(ValueError, match=f"^here/config.json: {words}.*is") as error:
        parse({**one(kind), **edits})
    assert "not supported" in str(error.value) and "\n" not in str(error.value)


def test_what_does_not_fit_together_names_the_file():
    with pytest.raises(ValueError, match="here/config.json: vocab_size is missing"):
        parse({k: v for k, v in one("llama").items() if k != "vocab_size"})
    with pytest.raises(ValueError, match="config.json: ModelConfig.head_dim is 7"):
        parse({**one("llama"), "head_dim": 7})
    with pytest.raises(ValueError, match="config.json: ModelConfig.experts.per_token"):
        parse({**one("mixtral"), "num_experts_per_tok": 9})


# Files of released models: fields without effect, and windows that are off.
@pytest.mark.parametrize(
    "kind, edits",
    [
        (
            "llama",
            {"pretraining_tp": 2, "rope_interleaved": False, "_name_or_path": ""},
        ),
        ("llama", {"quantization_config": None, "unsloth_fixed": True}),
        ("llama", {"temperature": 0.6, "top_p": 0.9, "do_sample": True}),
        ("qwen2", {"use_mrope": False}),
        ("gemma2", {"cache_implementation": "hybrid", "sliding_window_size": 5}),
        ("gemma2", {"hidden_act": "gelu_pytorch_tanh"}),
        ("phi3", {"attention_bias": False, "original_max_position_embeddings": 8}),
        ("smollm3", {"pretraining_tp": 2, "max_window_layers": 28}),
        ("qwen3_moe", {"max_window_layers": 48, "intermediate_size": 99}),
        ("mixtral", {"router_aux_loss_coef": 0.5}),
    ],
)
def test_fields_without_effect_are_accepted(kind, edits):
    assert parse({**one(kind), **edits}) == parse(one(kind))


@pytest.mark.parametrize(
    "edits",
    [
        {"use_sliding_window": False, "sliding_window": 64, "max_window_layers": 0},
        {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 28},
        {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0},
    ],
)
def test_a_sliding_window_that_no_layer_uses(edits):
    content = {**one("qwen2"), "layer_types": None, **edits}
    assert completed(content)["layer_types"] == 3 * [FULL]
    assert parse(content).windows == (None,) * 3
