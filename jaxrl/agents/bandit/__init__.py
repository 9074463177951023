"""Bandits: which arm to pull, with and without a context."""
