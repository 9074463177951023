"""Tasks that cannot be solved from the present observation."""
