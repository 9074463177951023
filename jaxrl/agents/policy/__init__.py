"""On-policy agents."""
