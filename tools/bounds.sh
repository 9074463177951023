#!/bin/sh
# Trains a little with the lowest and with the highest versions that pyproject.toml allows, on every
# Python that is at hand. The lowest are those of the direct dependencies: what they depend on in
# turn is their own affair.
set -eu
cd "$(dirname "$0")/.."
uv=$PWD/.venv/bin/uv
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

for python in ${PYTHONS:-python3.11 python3.12 python3.13}; do
    "$python" --version >/dev/null 2>&1 || continue
    for resolution in lowest-direct highest; do
        venv=$folder/$(basename "$python")-$resolution
        "$uv" venv --quiet --python "$python" "$venv"
        "$uv" pip install --quiet --python "$venv/bin/python" --resolution "$resolution" .
        "$uv" pip list --python "$venv/bin/python" 2>/dev/null |
            awk '/^(jax|flax|optax|chex|distrax|gymnax|brax|mujoco-mjx|numpy) / {printf "%s %s  ", $1, $2}'
        echo "($("$venv/bin/python" --version), $resolution)"
        (cd "$folder" && "$venv/bin/python" "$OLDPWD/tools/smoke.py")
    done
done
