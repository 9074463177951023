"""Small tasks from bsuite, each of which asks for one ability (Osband et al., 2020)."""
