"""Reinforcement learning of language models: losses over per-token log-probabilities."""
