"""Value-based agents."""
