"""Linen modules: torsos turn observations into features, heads turn features into outputs.

A linen module is hashable and compares by its fields, so it can be a static field of an agent.
"""

from jaxrl.networks.dueling import Dueling
from jaxrl.networks.modules import MLP, Headed, MinAtarCNN, NatureCNN, check_torso, example, prepare
from jaxrl.networks.nnx import FromNNX, from_nnx
from jaxrl.networks.orthogonal import orthogonal
from jaxrl.networks.recurrent import GRU, LSTM, Recurrent, initial_memory, run

__all__ = [
    "GRU",
    "LSTM",
    "MLP",
    "Dueling",
    "FromNNX",
    "Headed",
    "MinAtarCNN",
    "NatureCNN",
    "Recurrent",
    "check_torso",
    "example",
    "from_nnx",
    "initial_memory",
    "orthogonal",
    "prepare",
    "run",
]
