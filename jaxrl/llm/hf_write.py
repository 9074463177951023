"""A configuration as the `config.json` of a Hugging Face folder."""

from __future__ import annotations

from typing import Any

from jaxrl.llm.config import Config, Rope
from jaxrl.llm.hf_read import ACTIVATIONS

Json = Any

ARCHITECTURES = {
    "gpt2": "GPT2LMHeadModel",
    "gpt_neox": "GPTNeoXForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
}


def config_to_hf(config: Config, dtype: str = "float32") -> dict[str, Json]:
    """A `config.json`, in the key names of transformers 4, which 5 reads as well."""
    c, family = config, config.family
    eos = list(c.eos) if len(c.eos) > 1 else c.eos[0] if c.eos else None
    d: dict[str, Json] = dict(
        architectures=[ARCHITECTURES[family]],
        model_type=family,
        torch_dtype=dtype,
        vocab_size=c.vocab,
        tie_word_embeddings=c.tied,
        bos_token_id=c.bos,
        eos_token_id=eos,
        pad_token_id=c.pad,
        use_cache=True,
    )
    act = {v: k for k, v in ACTIVATIONS.items() if k not in ("swish", "gelu_new")}[c.activation]
    if family == "gpt2":
        act = "gelu_new" if act == "gelu_pytorch_tanh" else act
        return d | dict(
            n_embd=c.width,
            n_layer=c.layers,
            n_head=c.heads,
            n_positions=c.max_positions,
            n_inner=c.hidden,
            activation_function=act,
            layer_norm_epsilon=c.norm_eps,
        )
    rope = c.rope
    assert rope is not None
    d |= dict(
        hidden_size=c.width,
        num_hidden_layers=c.layers,
        num_attention_heads=c.heads,
        intermediate_size=c.hidden,
        max_position_embeddings=c.max_positions,
        hidden_act=act,
        rope_theta=rope.base,
        rope_scaling=_scaling(rope),
    )
    if family == "gpt_neox":
        return d | dict(
            layer_norm_eps=c.norm_eps,
            rotary_pct=rope.dims / c.head_dim,
            rotary_emb_base=d.pop("rope_theta"),
            use_parallel_residual=c.parallel,
            attention_bias=c.qkv_bias,
        )
    d |= dict(
        num_key_value_heads=c.kv_heads,
        rms_norm_eps=c.norm_eps,
        sliding_window=max(c.windows) or None,
    )
    if family not in ("qwen2", "phi3", "olmo2"):
        d |= dict(head_dim=c.head_dim)
    if family not in ("qwen2", "mistral", "mixtral", "phi3"):
        d |= dict(attention_bias=c.out_bias)
    if family == "llama":
        d |= dict(mlp_bias=c.mlp_bias)
    if family in ("qwen2", "qwen3", "qwen3_moe"):
        d |= dict(use_sliding_window=any(c.windows), max_window_layers=c.windows.count(0))
    if family in ("qwen2", "qwen3", "gemma2", "gemma3_text"):
        kinds = ["sliding_attention" if w else "full_attention" for w in c.windows]
        d |= dict(layer_types=kinds)
    if family in ("gemma2", "gemma3_text"):
        d |= dict(
            hidden_activation=d.pop("hidden_act"),
            query_pre_attn_scalar=_whole_if_it_is(c.attention_scale**-2),
            attn_logit_softcapping=c.attention_cap or None,
            final_logit_softcapping=c.final_cap or None,
        )
    if family == "gemma3_text":
        assert c.local_rope is not None
        d |= dict(rope_local_base_freq=c.local_rope.base)
    if family == "phi3":
        d |= dict(
            partial_rotary_factor=rope.dims / c.head_dim,
            original_max_position_embeddings=rope.trained or c.max_positions,
        )
    if family == "mixtral":
        d |= dict(num_local_experts=c.experts, num_experts_per_tok=c.experts_per_token)
    if family == "qwen3_moe":
        d |= dict(
            num_experts=c.experts,
            num_experts_per_tok=c.experts_per_token,
            moe_intermediate_size=c.expert_hidden,
            norm_topk_prob=c.experts_normalised,
            mlp_only_layers=list(c.dense_layers),
            decoder_sparse_step=1,
        )
    return d


def _scaling(rope: Rope) -> dict[str, Json] | None:
    """What `rope_scaling` says of it."""
    d: dict[str, Json] = dict(rope_type=rope.kind, type=rope.kind, factor=rope.factor)
    if rope.kind == "default":
        return None
    if rope.kind in ("linear", "dynamic"):
        return d
    d |= dict(original_max_position_embeddings=rope.trained)
    if rope.kind == "llama3":
        return d | dict(low_freq_factor=rope.low, high_freq_factor=rope.high)
    d |= dict(attention_factor=rope.attention_factor)
    if rope.kind == "yarn":
        return d | dict(beta_slow=rope.low, beta_fast=rope.high, truncate=rope.truncate)
    return d | dict(short_factor=list(rope.short), long_factor=list(rope.long))


def _whole_if_it_is(x: float) -> int | float:
    return round(x) if abs(x - round(x)) < 1e-6 * x else x
