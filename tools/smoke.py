"""Imports every part and every base dependency, and trains each agent for a moment."""

from __future__ import annotations

import importlib
import sys

import jax

import jaxrl

for name in ("chex", "distrax", "gymnax", "brax.envs", "mujoco.mjx"):
    importlib.import_module(name)

cartpole = jaxrl.envs.make("CartPole-v1")
runs = jaxrl.train(jaxrl.PPO(), cartpole, jax.random.split(jax.random.key(0), 4), steps=20_480)
score = jaxrl.evaluate(runs, cartpole, episodes=8).mean
print(f"PPO on CartPole-v1 after 20,480 steps: {score:.1f}")
sys.exit(not score > 20.0)
