"""Features of observations, for values that are linear in them.

A feature map is a frozen dataclass of settings, a static part of an agent. Called with a space and
observations [...] of it, it gives `Active` (the numbers of the few features that are 1) or an array
[..., n]. Whatever is done with `Active` costs as much as there are active features, whatever n is.
"""

from jaxrl.features.basis import Fourier, Polynomial
from jaxrl.features.groups import Given, OneHot, Raw, StateAggregation, given
from jaxrl.features.ranges import Bound
from jaxrl.features.tiles import TileCoding
from jaxrl.features.union import Union
from jaxrl.features.vectors import Active, FeatureMap, Vector, add, dense, dot, times, value

__all__ = [
    "Active",
    "Bound",
    "FeatureMap",
    "Fourier",
    "Given",
    "OneHot",
    "Polynomial",
    "Raw",
    "StateAggregation",
    "TileCoding",
    "Union",
    "Vector",
    "add",
    "dense",
    "dot",
    "given",
    "times",
    "value",
]
