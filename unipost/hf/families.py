"""The supported model types as data: their fields, defaults and fixed parts.

Facts are those of transformers 5.23 and 4.57: what a field means, what it is where
config.json lacks it, and which fields have no effect on a model's numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Windows = Literal["none", "every", "upper", "alternate", "pattern", "unrotated"]
Fields = Mapping[str, Any]
Allowed = Mapping[str, tuple[Any, ...]]
GELU_TANH = "gelu_pytorch_tanh"


@dataclass(frozen=True)
class Family:
    """One `model_type`.

    architecture  the class in `architectures`
    parts         fields of ModelConfig that all its models share
    copies        config.json field -> ModelConfig field with the same value
    defaults      what a field means where config.json lacks it
    windows       which layers see a window. none; every; upper: those from
                  max_window_layers on; alternate: even ones; pattern: all but every
                  sliding_window_pattern-th; unrotated: those without rotation.
                  `layer_types` says it where the family has that field
    switch        whether `use_sliding_window` turns the window on
    ropes         rope types
    neutral       fields that would change the numbers but for these values
    ignored       fields without effect here that have one in another family
    divides       whether transformers wants hidden_size to divide into heads
    """

    architecture: str
    parts: Fields = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)
    defaults: Fields = field(default_factory=dict)
    windows: Windows = "none"
    switch: bool = False
    ropes: tuple[str, ...] = ("default", "linear", "llama3")
    neutral: Allowed = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    divides: bool = False

    def default(self, name: str) -> Any:
        """The value of an absent field."""
        return {**DEFAULTS, **self.defaults}.get(name)


DEFAULTS: Fields = {
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
    "max_window_layers": 28,
}
GEMMA: Fields = {"norm_offset": 1.0}
GEMMA_DEFAULTS: Fields = {
    "head_dim": 256,
    "tie_word_embeddings": True,
    "hidden_act": GELU_TANH,
}
GEMMA2_DEFAULTS: Fields = {
    **GEMMA_DEFAULTS,
    "num_key_value_heads": 4,
    "hidden_activation": GELU_TANH,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
QWEN: Fields = {
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
}
NO_BIAS: Allowed = {"attention_bias": (False,), "mlp_bias": (False,)}

FAMILIES: Mapping[str, Family] = {
    "llama": Family(
        "LlamaForCausalLM",
        copies={"mlp_bias": "mlp_bias"},
        defaults={"max_position_embeddings": 2048},
        neutral={"rope_interleaved": (False,)},
        divides=True,
    ),
    "mistral": Family(
        "MistralForCausalLM",
        defaults={
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
            "sliding_window": 4096,
        },
        windows="every",
        neutral=NO_BIAS,
    ),
    "qwen2": Family(
        "Qwen2ForCausalLM",
        parts={"attention_bias": "qkv"},
        defaults=QWEN,
        windows="upper",
        switch=True,
        neutral={
            "attention_bias": (True,),
            "mlp_bias": (False,),
            "use_mrope": (False,),
        },
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        parts={"qk_norm": "head"},
        defaults={**QWEN, "head_dim": 128},
        windows="upper",
        switch=True,
    ),
    "gemma": Family(
        "GemmaForCausalLM",
        parts=GEMMA,
        defaults={
            **GEMMA_DEFAULTS,
            "num_key_value_heads": 16,
            "max_position_embeddings": 8192,
        },
        neutral={
            "hidden_activation": (GELU_TANH,),
            "use_bidirectional_attention": (False,),
        },
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        parts={**GEMMA, "norms": "both"},
        copies={
            "attn_logit_softcapping": "attention_softcap",
            "final_logit_softcapping": "logit_softcap",
        },
        defaults={
            **GEMMA2_DEFAULTS,
            "max_position_embeddings": 8192,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        windows="alternate",
        neutral={
            "hidden_act": (GELU_TANH,),
            "use_bidirectional_attention": (False,),
        },
        divides=True,
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        parts={**GEMMA, "norms": "both", "qk_norm": "head"},
        copies={"final_logit_softcapping": "logit_softcap"},
        defaults={
            **GEMMA2_DEFAULTS,
            "max_position_embeddings": 131072,
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "sliding_window_pattern": 6,
        },
        windows="pattern",
        neutral={
            "hidden_act": (GELU_TANH,),
            "attn_logit_softcapping": (),
            "use_bidirectional_attention": (False,),
        },
        divides=True,
    ),
    "phi3": Family(
        "Phi3ForCausalLM",
        defaults={"rms_norm_eps": 1e-5, "max_position_embeddings": 4096},
        windows="every",
        ropes=("default",),
        neutral={
            **NO_BIAS,
            "lm_head_bias": (False,),
            "embd_pdrop": (0,),
            "resid_pdrop": (0,),
            "full_attn_mod": (1,),
            "interpolate_factor": (1,),
            # the classes that transformers has since taken over
            "auto_map": (
                {
                    "AutoConfig": "configuration_phi3.Phi3Config",
                    "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
                },
            ),
        },
        # the context before longrope, which is not supported
        ignored=("original_max_position_embeddings",),
    ),
    "olmo2": Family(
        "Olmo2ForCausalLM",
        parts={"norms": "after", "qk_norm": "width"},
        defaults={"rms_norm_eps": 1e-5, "max_position_embeddings": 2048},
    ),
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        copies={"mlp_bias": "mlp_bias"},
        defaults={
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
            "rope_theta": 2e6,
            "tie_word_embeddings": True,
            "no_rope_layer_interval": 4,
        },
        windows="unrotated",
        switch=True,
        ignored=("max_window_layers",),
    ),
    "mixtral": Family(
        "MixtralForCausalLM",
        defaults={
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "num_experts": 8,
            "num_experts_per_tok": 2,
        },
        windows="every",
        neutral={
            **NO_BIAS,
            "router_jitter_noise": (0,),
            "output_router_logits": (False,),
        },
    ),
    "qwen3_moe": Family(
        "Qwen3MoeForCausalLM",
        parts={"qk_norm": "head"},
        defaults={
            **QWEN,
            "num_key_value_heads": 4,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
            "norm_topk_prob": False,
        },
        windows="every",
        switch=True,
        neutral={
            "decoder_sparse_step": (1,),
            "mlp_only_layers": ([],),
            "output_router_logits": (False,),
        },
        # of dense layers, of which there are none
        ignored=("intermediate_size",),
    ),
}

# Of every family: what transformers computes otherwise, or what other code computes.
NEUTRAL: Allowed = {
    "add_cross_attention": (False,),
    "attention_dropout": (0,),
    "auto_map": (),
    "is_causal": (True,),
    "is_encoder_decoder": (False,),
    "per_layer_config": ({},),
    "pruned_heads": ({},),
    "quantization_config": (),
}
# Of every family: no effect on the numbers of a causal language model. Fields of
# training, of other heads, of saving, and of the v4 defaults of `generate`.
IGNORED = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _commit_hash _name_or_path
    _sliding_window_pattern attn_implementation bad_words_ids begin_suppress_tokens
    bos_token_id cache_implementation chunk_size_feed_forward classifier_dropout
    cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample
    dtype early_stopping encoder_no_repeat_ngram_size eos_token_id
    exponential_decay_length_penalty finetuning_task forced_bos_token_id
    forced_eos_token_id gradient_checkpointing id2label initializer_range is_decoder
    is_llama_config keys_to_ignore_at_inference label2id length_penalty max_length
    min_length model_type name_or_path no_repeat_ngram_size num_beam_groups
    num_beams num_labels num_return_sequences output_attentions output_hidden_states
    output_scores pad_token_id prefix pretraining_tp problem_type
    remove_invalid_values repetition_penalty return_dict return_dict_in_generate
    router_aux_loss_coef sep_token_id suppress_tokens task_specific_params
    temperature tf_legacy_loss tie_encoder_decoder tie_last_hidden_states
    tokenizer_class top_k top_p torch_dtype torchscript transformers.js_config
    transformers_version typical_p unsloth_fixed unsloth_version use_bfloat16
    use_cache
    """.split()
)
