"""Planning. With a known model: plain functions of a `jaxrl.mdp.MDP`, jitted, that work under
`vmap` over models and discounts."""

from jaxrl.planning.backup import (
    action_values,
    error_bound,
    greedy,
    improved,
    policy_model,
    state_values,
)
from jaxrl.planning.evaluation import (
    evaluate_in_place,
    evaluate_linear,
    evaluate_policy,
    evaluate_q,
)
from jaxrl.planning.horizon import Plan, evaluate_horizon, optimize_horizon
from jaxrl.planning.improvement import modified_policy_iteration, policy_iteration
from jaxrl.planning.prioritized import predecessors, prioritized_sweeping
from jaxrl.planning.values import Solution, in_place_value_iteration, q_iteration, value_iteration

__all__ = [
    "Plan",
    "Solution",
    "action_values",
    "error_bound",
    "evaluate_horizon",
    "evaluate_in_place",
    "evaluate_linear",
    "evaluate_policy",
    "evaluate_q",
    "greedy",
    "improved",
    "in_place_value_iteration",
    "modified_policy_iteration",
    "optimize_horizon",
    "policy_iteration",
    "policy_model",
    "predecessors",
    "prioritized_sweeping",
    "q_iteration",
    "state_values",
    "value_iteration",
]
