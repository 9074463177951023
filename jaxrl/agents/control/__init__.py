"""Off-policy agents for continuous control."""
