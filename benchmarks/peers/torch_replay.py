"""A replay ring in NumPy for the PyTorch loops."""

from __future__ import annotations

import numpy as np
import torch


class Ring:
    """Transitions, uniformly sampled."""

    def __init__(self, capacity: int, rng: np.random.Generator, *rows: np.ndarray) -> None:
        """`rows`: one example of each field, for its shape and type."""
        self.capacity, self.rng, self.size, self.at = capacity, rng, 0, 0
        self.data = [np.zeros((capacity, *row.shape), row.dtype) for row in rows]

    def add(self, *batches: np.ndarray) -> None:
        """[N, ...] each"""
        count = len(batches[0])
        if count == 1:
            where: slice | np.ndarray = slice(self.at, self.at + 1)
        else:
            where = np.arange(self.at, self.at + count) % self.capacity
        for store, batch in zip(self.data, batches, strict=True):
            store[where] = batch
        self.at = (self.at + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def sample(self, count: int) -> list[torch.Tensor]:
        rows = self.rng.integers(0, self.size, count)
        return [torch.from_numpy(store[rows]) for store in self.data]
