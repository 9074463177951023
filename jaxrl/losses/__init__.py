"""Losses: pure functions of arrays, without networks, batch layout or optimisers."""
