"""Tasks for language models keep the contract of environments and say what is right."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl.llm import tasks
from jaxrl.llm.tasks import PAD, Addition, Arithmetic, Copy, Reverse, Scored, Sort, Task, ids
from jaxrl.llm.tokenizer import ByteTokenizer, CharTokenizer
from jaxrl.llm.verifiers import Code, Numeric, Workers, last_number
from jaxrl.struct import param, static, struct
from jaxrl.types import ActOut, Env

COUNT = 64


def numbers_task(**settings: Any) -> Any:
    prompts = [f"{n} + {n} = " for n in range(12)]
    answers = [str(2 * n) for n in range(11)] + ["unknown"]  # the last cannot be scored
    return tasks.text_task(
        prompts, answers, Numeric(extract=last_number), ByteTokenizer(), 6, **settings
    )


def count_tokens(params: Any, prompt: jax.Array, completion: jax.Array) -> jax.Array:
    del prompt
    return params["weight"] * (completion != PAD).sum()


TEXTS = numbers_task()
TASKS: dict[str, Any] = {
    "Addition": Addition(digits=2),
    "Addition of one digit with room": Addition(digits=1, room=9),
    "Addition backwards": Addition(digits=3, backwards=True),
    "Arithmetic": Arithmetic(digits=2, operations=("+", "-", "*")),
    "Copy": Copy(),
    "Reverse": Reverse(length=4, letters=3),
    "Sort": Sort(length=7, shortest=7, letters=26),
    "texts": TEXTS,
    "Scored": Scored(Addition(digits=2), count_tokens, {"weight": jnp.array(0.5)}),
    "Scored texts": Scored(TEXTS, count_tokens, {"weight": jnp.array(0.5)}),
}
# What has its own lines of code; the rest are of the same classes or change one line.
FEW = ("Arithmetic", "Sort", "texts", "Scored")


def some(names: Any) -> list[Any]:
    return [pytest.param(n, marks=() if n in FEW else pytest.mark.slow) for n in names]


WRITTEN = [name for name, task in TASKS.items() if hasattr(task, "examples")]


def play(task: Any, key: jax.Array) -> Any:
    """One episode with a random action."""
    reset_key, action_key, step_key = jax.random.split(key, 3)
    state, obs = task.reset(reset_key)
    action = task.action_space.sample(action_key)
    after, step = task.step(state, action, step_key)
    return obs, action, after, step


@functools.cache
def played(name: str) -> Any:
    """Of COUNT keys, as one batch."""
    keys = jax.random.split(jax.random.key(0), COUNT)
    return jax.device_get(jax.jit(jax.vmap(play, (None, 0)))(TASKS[name], keys))


@functools.cache
def questions(name: str) -> Any:
    return jax.device_get(
        jax.jit(lambda task, keys: jax.vmap(task.reset)(keys))(
            TASKS[name], jax.random.split(jax.random.key(2), 400)
        )
    )


step = jax.jit(
    lambda task, state, action: jax.vmap(lambda s, a: task.step(s, a, jax.random.key(0))[1])(
        state, action
    )
)


@pytest.mark.parametrize("name", some(TASKS))
def test_is_a_task_of_one_step(name: str) -> None:
    task = TASKS[name]
    assert isinstance(task, Env) and isinstance(task, Task)
    hash((task.obs_space, task.action_space, task.stop))
    assert task.max_new == task.action_space.shape[0]
    assert task.obs_space.low == task.action_space.low == PAD == -1
    assert task.obs_space.high == task.action_space.high == task.tokenizer.size - 1
    obs, action, _, step = played(name)
    assert obs.dtype == action.dtype == jnp.int32
    assert all(task.obs_space.contains(row) for row in np.asarray(obs))
    assert len(np.unique(obs, axis=0)) > 3
    np.testing.assert_array_equal(step.obs, obs)
    assert step.reward.dtype == jnp.float32 and step.reward.shape == (COUNT,)
    np.testing.assert_array_equal(step.terminated, ~step.truncated)
    assert np.isfinite(step.reward).all() and not step.reward[step.truncated].any()
    assert task.time_limit == (1 if step.truncated.any() else None)
    # The prompt: pads, then tokens.
    real = np.asarray(obs) != PAD
    assert (np.diff(real.astype(int), axis=1) >= 0).all() and real[:, -1].all()


@pytest.mark.parametrize("name", some(TASKS))
def test_a_key_says_everything(name: str) -> None:
    """Alone as in a batch."""
    key = jax.random.split(jax.random.key(0), COUNT)[5]
    alone = jax.jit(play)(TASKS[name], key)
    for a, b in zip(jax.tree.leaves(played(name)), jax.tree.leaves(alone), strict=True):
        np.testing.assert_array_equal(a[5], b)


# Tasks that write their answers.


def right(name: str, prompt: str) -> str:
    """What the answer should be, by Python."""
    task = TASKS[name]
    if isinstance(task, Arithmetic):
        a, sign, b = re.fullmatch(r"(\d+)([-+*])(\d+)=", prompt).groups()  # pyright: ignore
        assert all(n == str(int(n)) and int(n) < 10**task.digits for n in (a, b))
        assert sign in task.operations
        found = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]
        digits = str(abs(found))
        return "-" * (found < 0) + (digits[::-1] if task.backwards else digits)
    letters = prompt.removesuffix(">")
    assert prompt.endswith(">") and task.shortest <= len(letters) <= task.length
    if isinstance(task, Sort):
        return "".join(sorted(letters))
    return letters[::-1] if isinstance(task, Reverse) else letters


@pytest.mark.parametrize("name", some(WRITTEN))
def test_written_answers_are_right(name: str) -> None:
    task = TASKS[name]
    states, obs = questions(name)
    answers = task.answer(states)
    assert answers.shape == (400, task.max_new)
    for prompt, answer in zip(np.asarray(obs), np.asarray(answers), strict=True):
        tokens = ids(answer)
        assert answer.tolist() == tokens + [PAD] * (task.max_new - len(tokens))
        assert tokens[-1] == task.tokenizer.eos and task.stop == (task.tokenizer.eos,)
        assert task.text(answer) == right(name, task.text(prompt))
    lengths = (np.asarray(answers) != PAD).sum(1)
    assert task.longest_answer == lengths.max()  # no shorter than needed, and no longer
    assert task.longest_prompt == (np.asarray(obs) != PAD).sum(1).max()
    np.testing.assert_array_equal(step(task, states, answers).reward, 1.0)


@pytest.mark.parametrize("name", some(WRITTEN))
def test_only_the_answer_with_its_stop_token_is_worth_1(name: str) -> None:
    task = TASKS[name]
    states, _ = questions(name)
    rows = np.arange(400)
    answers = np.asarray(task.answer(states))
    counts = (answers != PAD).sum(1)
    wrong = answers.copy()
    wrong[rows, rows % counts] += 1  # each at another place
    wrong %= task.tokenizer.size
    wrong[answers == PAD] = PAD
    assert not step(task, states, wrong).reward.any()
    half = step(dataclasses.replace(task, partial=0.5), states, wrong).reward
    np.testing.assert_allclose(half, 0.5 * (counts - 1) / counts, rtol=1e-6)
    assert not step(task, states, np.full_like(answers, PAD)).reward.any()
    behind = np.where(answers == PAD, 0, answers)  # what follows the stop token
    np.testing.assert_array_equal(step(task, states, behind).reward, 1.0)


@pytest.mark.parametrize("name", some(WRITTEN))
def test_examples_are_prompts_with_their_answers(name: str) -> None:
    task = TASKS[name]
    tokens, mask = jax.jit(lambda task, key: task.examples(key, 32))(task, jax.random.key(4))
    (length,) = task.obs_space.shape
    assert tokens.shape == mask.shape == (32, length + task.max_new) and mask.dtype == bool
    for row, marked in zip(np.asarray(tokens), np.asarray(mask), strict=True):
        prompt, answer = ids(row[~marked]), ids(row[marked])
        assert task.text(answer) == right(name, task.text(prompt))
        assert answer[-1] == task.stop[0] and not marked[:length].any()
        assert (row[marked] != PAD).all()
    assert len(np.unique(tokens, axis=0)) > 3


def test_numbers_of_all_sizes_are_drawn() -> None:
    prompts = [TASKS["Arithmetic"].text(row) for row in questions("Arithmetic")[1]]
    numbers = np.array([[int(n) for n in re.findall(r"\d+", prompt)] for prompt in prompts])
    signs = {sign: sum(sign in prompt for prompt in prompts) / 400 for sign in "+-*"}
    assert numbers.shape == (400, 2) and numbers.min() <= 1 and numbers.max() >= 98
    assert abs(numbers.mean() - 49.5) < 5 * np.sqrt(9999 / 12 / 800)
    assert all(abs(share - 1 / 3) < 0.1 for share in signs.values())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Arithmetic(digits=5, operations=("*",)), "from 1 to 4"),
        (lambda: Arithmetic(digits=10), "from 1 to 9"),
        (lambda: Arithmetic(operations=("/",)), "operations"),
        (lambda: Arithmetic(operations=()), "operations"),
        (lambda: Addition(digits=2, room=3), "at least 4"),
        (lambda: Copy(length=3, shortest=4), "shortest=4"),
    ],
)
def test_impossible_settings_are_refused(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        task = make()
        _ = task.action_space
        task.reset(jax.random.key(0))


@pytest.mark.slow
def test_the_largest_numbers_fit() -> None:
    for task in (Arithmetic(digits=9), Arithmetic(digits=4, operations=("*",))):
        name = f"{task.digits} digits"
        TASKS[name] = task
        try:
            states, obs = questions(name)
            for prompt, answer in zip(obs, states.answer, strict=True):
                assert task.text(answer) == right(name, task.text(prompt))
        finally:
            del TASKS[name]


# Texts.


def completion(text: str, length: int = 6, stop: bool = True) -> jax.Array:
    tokens = ByteTokenizer().encode(text, eos=stop)
    return jnp.asarray(tokens + [PAD] * (length - len(tokens)), jnp.int32)


def test_texts_are_scored_in_one_call_for_a_batch() -> None:
    calls: list[list[str]] = []

    def verifier(given: str, answer: str) -> float | None:
        if given == "bug":
            raise RuntimeError("a bug")
        calls[-1].append(given)
        return None if given == "?" else float(given == answer)

    task = tasks.text_task(["a", "b"], ["A", "B"], verifier, ByteTokenizer(), 6)
    inner = task.judge.__call__

    class Counting(type(task.judge)):
        def __call__(self, question: Any, tokens: Any) -> Any:
            calls.append([])
            return inner(question, tokens)

    judge = Counting(("A", "B"), verifier, ByteTokenizer(), task.stop)
    task = dataclasses.replace(task, judge=judge)
    texts = [["A", "B", "?"], ["bug", "A", "B"]]
    actions = jnp.stack([jnp.stack([completion(t) for t in row]) for row in texts])
    states = jnp.array([[0, 0, 1], [1, 0, 1]])
    keys = jax.random.split(jax.random.key(0), (2, 3))
    _, step = jax.jit(jax.vmap(jax.vmap(task.step)))(states, actions, keys)
    np.testing.assert_array_equal(step.reward, [[1, 0, 0], [0, 1, 1]])
    np.testing.assert_array_equal(step.truncated, [[False, False, True], [True, False, False]])
    np.testing.assert_array_equal(step.terminated, ~step.truncated)
    assert calls == [["A", "B", "?", "A", "B"]]


def test_counts_of_texts() -> None:
    task = numbers_task()
    for question, text in ((3, "6"), (3, "7"), (11, "3")):
        task.step(jnp.array(question), completion(text), jax.random.key(0))
    assert task.counts() == {"scored": 2, "unscored": 1, "raised": 0}


def test_a_completion_ends_at_its_stop_token_or_pad() -> None:
    task = numbers_task()
    read = task.judge.read
    assert read(np.asarray(completion("12"))) == "12"
    assert read(np.asarray(completion("12", stop=False))) == "12"
    assert read(np.asarray(completion("123456", stop=False))) == "123456"
    assert read(np.array([49, 257, 50, 50, 257, PAD])) == "1"
    assert read(np.array([49, 999, 50, PAD, PAD, PAD])) == "12"  # an id beyond the tokenizer's


def test_prompts_are_encoded_as_asked() -> None:
    task = numbers_task(bos=True, longest=20)
    assert task.prompts.shape == (12, 20)
    assert task.prompts[3].tolist()[-9:] == [256, *b"3 + 3 = "]
    assert (np.asarray(task.prompts[3])[:-9] == PAD).all()

    tokenizer = ByteTokenizer()
    tokenizer.template = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
    said = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    pytest.importorskip("jinja2")
    task = tasks.text_task(["hi", said], ["", ""], Numeric(), tokenizer, 4, chat=True, stop=(7, 9))
    assert task.text(task.prompts[0]) == "user:hi;" and task.stop == (7, 9)
    assert task.text(task.prompts[1]) == "system:s;user:u;"


def test_unusable_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="2 prompts and 1 answers"):
        tasks.text_task(["a", "b"], ["c"], Numeric(), ByteTokenizer(), 4)
    with pytest.raises(ValueError, match="2 of 12 prompts.*longest=8.*10"):
        numbers_task(longest=8)
    with pytest.raises(TypeError, match="chat=True"):
        tasks.text_task([[{"role": "user"}]], ["c"], Numeric(), ByteTokenizer(), 4)
    with pytest.raises(ValueError, match="bos=True"):
        tasks.text_task([""], ["c"], Numeric(), ByteTokenizer(), 4)


def test_code_as_a_task() -> None:
    with Workers(2, seconds=2.0) as workers:
        task = tasks.text_task(
            ["Write f."], ["assert f() == 4"], Code(workers), ByteTokenizer(), 40
        )
        texts = ("def f(): return 4", "def f(): return 5", "import os; os._exit(0)")
        actions = jnp.stack([completion(text, 40) for text in texts])
        found = step(task, jnp.zeros(3, jnp.int32), actions)
        assert found.reward.tolist() == [1.0, 0.0, 0.0] and not found.truncated.any()
        assert task.counts()["scored"] == task.counts()["workers/checks"] == 3


# In the driver.


@struct
class Typist:
    """Types at random."""

    lr: Any = param("nothing", default=1.0)
    num_envs: int = static("", default=4)
    num_steps: int = static("", default=2)

    def init(self, key: jax.Array, spec: Any) -> Any:
        return {"spec": jnp.zeros(spec.action_space.shape[0]), "sum": jnp.zeros(())}

    def act(self, state: Any, obs: jax.Array, key: jax.Array, explore: bool = True) -> ActOut:
        del explore
        shape = (obs.shape[0], state["spec"].shape[0])
        return ActOut(jax.random.randint(key, shape, 48, 58, jnp.int32))

    def update(self, state: Any, rollout: Any, key: jax.Array) -> Any:
        del key
        return state, {"cut": rollout.truncated.mean(), "reward": rollout.reward.mean()}


def test_texts_in_the_driver() -> None:
    """With a callback in a scan in a vmap over runs."""

    def verifier(given: str, answer: str) -> float | None:
        return None if given[0] in "01234" else 0.25

    task = tasks.text_task(["1"], ["7"], verifier, ByteTokenizer(), 3)
    run = jaxrl.train(Typist(), task, jax.random.split(jax.random.key(0), 2), steps=64)
    cut = np.asarray(run.metrics["cut"])
    assert 0.2 < cut.mean() < 0.8
    np.testing.assert_allclose(run.metrics["reward"], 0.25 * (1 - cut), rtol=1e-6)
    np.testing.assert_array_equal(run.metrics["episode/length"], 1.0)
    counts = task.counts()
    assert counts["unscored"] == round(cut.mean() * 2 * 64) and counts["raised"] == 0


# Learned rewards and preferences.


def test_scored_gives_the_reward_of_its_parameters_and_knows_the_gold_one() -> None:
    inner = Addition(digits=2)
    task = Scored(inner, count_tokens, {"weight": jnp.array(2.0)})
    state, prompt = task.reset(jax.random.key(0))
    np.testing.assert_array_equal(prompt, inner.reset(jax.random.key(0))[1])
    answer = inner.answer(state[0])
    step = jax.jit(lambda task: task.step(state, answer, jax.random.key(1))[1])
    count = len(ids(answer))
    assert step(task).reward == 2.0 * count
    assert step(task.with_params({"weight": jnp.array(3.0)})).reward == 3.0 * count
    assert step._cache_size() == 1  # pyright: ignore
    assert task.gold(state, answer, jax.random.key(1)) == 1.0
    assert task.gold(state, jnp.zeros_like(answer), jax.random.key(1)) == 0.0
    both = Scored(TEXTS, count_tokens, {"weight": jnp.array(1.0)})
    unknown = (jnp.array(11), TEXTS.prompts[11])
    assert jnp.isnan(both.gold(unknown, completion("3"), jax.random.key(0)))


def test_scored_can_be_vmapped_over_rewards() -> None:
    weights = {"weight": jnp.arange(3.0)}
    task = Scored(Addition(), count_tokens, weights)
    axes = dataclasses.replace(jax.tree.map(lambda _: None, task), params={"weight": 0})
    state, _ = Addition().reset(jax.random.key(0))
    tokens = Addition().answer(state)

    def reward(task: Any) -> jax.Array:
        return task.step((state, state.prompt), tokens, jax.random.key(0))[1].reward

    found = jax.vmap(reward, (axes,))(task)
    np.testing.assert_allclose(found, np.arange(3) * len(ids(tokens)))


def test_preferences_follow_bradley_and_terry() -> None:
    count = 20_000
    prompt = jnp.zeros((count, 1), jnp.int32)
    a, b = jnp.full((count, 2), 5), jnp.full((count, 2), 6)
    gap, temperature = 1.5, 0.8
    one, zero = jnp.full(count, gap), jnp.zeros(count)
    pairs = tasks.prefer(jax.random.key(0), prompt, a, b, one, zero, temperature)
    share = float((pairs.chosen[:, 0] == 5).mean())
    p = 1 / (1 + np.exp(-gap / temperature))
    assert abs(share - p) < 4 * np.sqrt(p * (1 - p) / count)
    np.testing.assert_array_equal(pairs.swapped, pairs.chosen[:, 0] == 6)
    np.testing.assert_allclose(pairs.margin, np.where(pairs.swapped, -gap, gap))
    np.testing.assert_array_equal(pairs.chosen + pairs.rejected, 11)
    sure = tasks.prefer(jax.random.key(0), prompt, a, b, zero, one, 0.0)
    assert (sure.chosen == 6).all() and not sure.swapped.any()
    tie = tasks.prefer(jax.random.key(0), prompt, a, b, one, one, 0.0)
    assert abs(float((tie.chosen[:, 0] == 5).mean()) - 0.5) < 4 * 0.5 / np.sqrt(count)


def test_synthetic_pairs_have_the_gold_margin_they_say() -> None:
    task = Reverse(length=6, shortest=2, letters=8)
    make = jax.jit(lambda key, scale: tasks.synthetic(task, key, 2000, scale=scale))
    pairs = make(jax.random.key(1), 4.0)
    assert pairs.prompt.shape == (2000, 7) and pairs.chosen.shape == (2000, task.max_new)

    def gold(prompt: Any, tokens: Any) -> float:
        want = ids(task.tokenizer.encode(task.text(prompt).rstrip(">")[::-1], eos=True))
        have = ids(tokens)
        assert len(have) == len(want) and have[-1] == task.stop[0]
        assert max(have[:-1]) < 9  # no <bos>, no <eos> in between
        return 4.0 * np.mean(np.array(have) == np.array(want))

    rows = zip(*map(np.asarray, (pairs.prompt, pairs.chosen, pairs.rejected)), strict=True)
    margins = [gold(p, c) - gold(p, r) for p, c, r in rows]
    np.testing.assert_allclose(pairs.margin, margins, atol=1e-5)
    assert 0.03 < float(pairs.swapped.mean()) < 0.35 and np.std(margins) > 0.5
    sharper = make(jax.random.key(1), 400.0)
    assert sharper.swapped.mean() < 0.02


@pytest.mark.slow
def test_synthetic_pairs_by_a_rule_of_ones_own() -> None:
    task = Copy(letters=3)
    disliked = jax.jit(
        lambda key: tasks.synthetic(task, key, 50, gold=lambda q, c: -(c == 0).sum())
    )
    pairs = disliked(jax.random.key(1))
    np.testing.assert_allclose(
        pairs.margin, (pairs.rejected == 0).sum(1) - (pairs.chosen == 0).sum(1)
    )


# Reasoning-gym.


def test_reasoning_gym() -> None:
    pytest.importorskip("reasoning_gym")
    with Workers(2, seconds=10.0, memory=2048) as workers:
        task = tasks.reasoning_gym(
            "leg_counting", ByteTokenizer(), 8, size=5, seed=3, workers=workers, max_animals=4
        )
        assert "legs" in task.text(task.prompts[0])
        import reasoning_gym  # pyright: ignore

        data = reasoning_gym.create_dataset("leg_counting", size=5, seed=3, max_animals=4)
        right = jnp.stack([completion(data[i]["answer"], 8) for i in range(5)])
        wrong = jnp.stack([completion("no", 8)] * 5)
        np.testing.assert_array_equal(step(task, jnp.arange(5), right).reward, 1.0)
        with pytest.raises(ValueError, match="leg_count_ing"):
            tasks.reasoning_gym("leg_count_ing", ByteTokenizer(), 8, size=1, workers=workers)
        assert (step(task, jnp.arange(5), wrong).reward < 0.1).all()
        assert task.counts()["scored"] == 10


def test_reasoning_gym_is_named_where_it_is_missing() -> None:
    try:
        import reasoning_gym  # pyright: ignore  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="llm-tasks"):
            tasks.reasoning_gym("leg_counting", ByteTokenizer(), 8)


# The page.


def test_the_code_in_the_docs_runs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "llm_tasks.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 7
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/llm_tasks.md", "exec"), names)


def test_char_tokenizers_are_shared() -> None:
    """They are part of programs: another one would compile everything again."""
    assert Addition().tokenizer is Addition(digits=3).tokenizer
    assert Copy().tokenizer is Sort().tokenizer
    assert isinstance(Copy().tokenizer, CharTokenizer) and json.dumps(Copy().tokenizer.alphabet)
