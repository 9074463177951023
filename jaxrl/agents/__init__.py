"""Agents, by family. Each file tells one algorithm and imports no other agent."""
