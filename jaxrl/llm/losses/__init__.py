"""Losses of language-model training: pure functions of per-token log-probabilities.

Nothing here knows a network. A loss takes what a model said about tokens (log-probabilities [R, L]
of R rows and L positions), a `Layout` (which tokens count and which sequence each belongs to), and
advantages, rewards or preferences. One family, one file:

    aggregate      tokens -> one number, the same however the batch is cut or packed
    logprobs       hidden states -> log-probabilities and entropy, a few positions at a time
    kl             k1, k2, k3, their corrected gradients, the penalty in the reward
    sft, reward    negative log-likelihood; reward models
    ppo            token rewards, advantages, whitening, the value head's loss
    dpo, divergence, reference_free, kto      preferences
    advantages, ratios, surrogates, grpo      groups of completions
    shaping, distillation, diagnostics, presets

See docs/llm_losses.md for every formula in one table.
"""
