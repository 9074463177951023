"""Values that are linear in features."""
