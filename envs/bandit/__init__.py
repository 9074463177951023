"""Bandits: the reward depends on the action alone, or on the action and a context."""
