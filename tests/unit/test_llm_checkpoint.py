"""Folders of transformers read and written: the same logits, the same bits, and refusals by name.

Every family as a tiny random model made by transformers itself.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import FileRefused, llm, spaces
from jaxrl.llm.checkpoint import LanguageModel
from jaxrl.llm.layout import layout
from jaxrl.types import Spec

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.numpy")
pytestmark = pytest.mark.filterwarnings("default")  # theirs are not ours to fix

TINY: dict[str, Any] = dict(
    vocab_size=61, hidden_size=32, intermediate_size=40, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1,
    eos_token_id=2, pad_token_id=0, initializer_range=0.1,
)  # fmt: skip
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, rope_theta=1e4)
FACTORS = [1.0, 1.3, 1.7, 2.0]


def rope(**settings: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 10_000.0, **settings}}


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", dict(n_embd=32, n_layer=2, n_head=4, n_positions=64, n_inner=40)),
    "llama": ("Llama", {}),
    "llama-tied-biases": ("Llama", dict(tie_word_embeddings=True, attention_bias=True,
                                        mlp_bias=True, head_dim=12)),
    "llama-linear": ("Llama", rope(rope_type="linear", factor=2.5)),
    "llama-dynamic": ("Llama", rope(rope_type="dynamic", factor=2.0)
                      | dict(max_position_embeddings=10)),
    "llama-llama3": ("Llama", rope(rope_type="llama3", factor=8.0, low_freq_factor=1.0,
                                   high_freq_factor=4.0, original_max_position_embeddings=16)),
    "llama-yarn": ("Llama", rope(**YARN)),
    "qwen2-yarn": ("Qwen2", rope(**YARN, mscale=0.8, mscale_all_dim=0.5, beta_fast=16.0,
                                 beta_slow=2.0, truncate=False)),
    "mistral": ("Mistral", dict(sliding_window=4)),
    "qwen2": ("Qwen2", dict(use_sliding_window=True, sliding_window=4, max_window_layers=1)),
    "qwen3": ("Qwen3", dict(head_dim=12, tie_word_embeddings=True)),
    "gemma": ("Gemma", dict(head_dim=12)),
    "gemma2": ("Gemma2", dict(head_dim=12, sliding_window=4, query_pre_attn_scalar=20,
                              attn_logit_softcapping=2.0, final_logit_softcapping=3.0)),
    "gemma3": ("Gemma3", dict(head_dim=12, sliding_window=4, query_pre_attn_scalar=20,
                              layer_types=["sliding_attention", "full_attention"])),
    "phi3": ("Phi3", dict(sliding_window=6)),
    "phi3-longrope": ("Phi3", rope(
        rope_type="longrope", short_factor=FACTORS[:2], long_factor=[4.0, 6.0],
        partial_rotary_factor=0.5) | dict(original_max_position_embeddings=9)),
    "olmo2": ("Olmo2", {}),
    "gpt-neox": ("GPTNeoX", rope(partial_rotary_factor=0.5)),
    "gpt-neox-serial": ("GPTNeoX", dict(use_parallel_residual=False, tie_word_embeddings=True)),
    "qwen3-moe": ("Qwen3Moe", dict(head_dim=8, num_experts=4, num_experts_per_tok=2,
                                   moe_intermediate_size=12, mlp_only_layers=[0])),
    "mixtral": ("Mixtral", dict(num_local_experts=3, num_experts_per_tok=2, sliding_window=5)),
}  # fmt: skip
"""Name of the transformers class, what differs from TINY"""

LENGTHS = (5, 9, 13)
ROOM = 20
STEPS = 6


def theirs(case: str) -> Any:
    name, settings = CASES[case]
    if name == "GPT2":
        kept = ("vocab_size", "bos_token_id", "eos_token_id", "initializer_range")
        settings = {**{key: TINY[key] for key in kept}, **settings}
    else:
        settings = {**TINY, **json.loads(json.dumps(settings))}
    if name == "GPTNeoX":
        del settings["num_key_value_heads"]
    kind = "Gemma3Text" if name == "Gemma3" else name
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = getattr(hf, f"{kind}Config")(**settings, attn_implementation="eager")
    model = getattr(hf, "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")(config)
    with torch.no_grad():
        for p in model.parameters():  # norms and biases too
            p += 0.1 * torch.randn_like(p)
    model.generation_config.eos_token_id = None
    return model.eval()


Folder = tuple[str, Any, Path]


@pytest.fixture(scope="module", params=list(CASES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    model = theirs(request.param)
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    (path / "generation_config.json").unlink(missing_ok=True)
    return request.param, model, path


def rows() -> list[Any]:
    return [
        np.asarray(jax.random.randint(jax.random.key(n), (n,), 3, 61, jnp.int32)) for n in LENGTHS
    ]


def padded(texts: list[Any], left: bool) -> tuple[Any, Any]:
    tokens = np.zeros((len(texts), ROOM), np.int32)
    mask = np.zeros((len(texts), ROOM), bool)
    for n, text in enumerate(texts):
        begin = ROOM - len(text) if left else 0
        tokens[n, begin : begin + len(text)] = text
        mask[n, begin : begin + len(text)] = True
    return tokens, mask


def fresh(model: Any) -> Any:
    """Without what rotary embeddings remember of longer texts."""
    for part in model.modules():
        if hasattr(part, "max_seq_len_cached") and hasattr(part, "original_max_seq_len"):
            part.max_seq_len_cached = part.original_max_seq_len
            if hasattr(part, "original_inv_freq"):
                part.inv_freq.copy_(part.original_inv_freq)
    return model


def test_logits_and_greedy_continuations(folder: Folder) -> None:
    """Each row alone in transformers against a padded batch here, on either side; then tokens are
    appended one by one, in transformers from its cache."""
    case, model, path = folder
    lm = llm.load(path)
    forward = jax.jit(lambda tokens, mask: lm(tokens, mask))
    texts = rows()
    with torch.no_grad():
        inputs = [torch.tensor(text[None]).long() for text in texts]
        expected = [fresh(model)(x).logits[0].numpy() for x in inputs]
    for left in (False, True):
        tokens, mask = padded(texts, left)
        found = np.asarray(forward(tokens, mask))
        for n, logits in enumerate(expected):
            np.testing.assert_allclose(found[n][mask[n]], logits, atol=2e-4, rtol=0)
    assert max(np.abs(x).max() for x in expected) > 0.5  # not all alike
    cached = "dynamic" not in case and "longrope" not in case  # their caches keep stale angles
    answers: list[Any] = []
    with torch.no_grad():
        for text in texts:
            out = fresh(model).generate(
                torch.tensor(text[None]).long(), max_new_tokens=STEPS, do_sample=False,
                use_cache=cached, pad_token_id=0,
            )  # fmt: skip
            answers.append(out[0].numpy())
    for _ in range(STEPS):
        tokens, mask = padded(texts, True)
        found = np.asarray(forward(tokens, mask))
        texts = [np.append(t, x[-1].argmax()) for t, x in zip(texts, found, strict=True)]
    for text, answer in zip(texts, answers, strict=True):
        np.testing.assert_array_equal(text, answer)


def test_a_batch_padded_by_transformers(folder: Folder) -> None:
    case, model, path = folder
    if "dynamic" in case or "longrope" in case:
        pytest.skip("there the longest row changes what the others get")
    tokens, mask = padded(rows(), True)
    with torch.no_grad():
        out = model.generate(
            torch.tensor(tokens).long(), attention_mask=torch.tensor(mask).long(),
            max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True,
            pad_token_id=0,
        )  # fmt: skip
    found = np.asarray(llm.load(path)(tokens, mask))
    np.testing.assert_allclose(found[:, -1], out.logits[0].numpy(), atol=2e-4, rtol=0)


def test_saved_and_loaded_again(folder: Folder, tmp_path: Path) -> None:
    """The same bits here, and the same logits in transformers."""
    case, model, path = folder
    lm = llm.load(path)
    assert llm.save(lm, tmp_path / "copy", shard_bytes=20_000) == tmp_path / "copy"
    assert len(list((tmp_path / "copy").glob("*.safetensors"))) > 1
    again = llm.load(tmp_path / "copy")
    assert again.config == lm.config
    same_bits(lm, again)
    llm.save(again, tmp_path / "copy", replace=True)
    assert [f.name for f in (tmp_path / "copy").glob("*safetensors*")] == ["model.safetensors"]
    content = safetensors.load_file(tmp_path / "copy/model.safetensors")
    original = safetensors.load_file(path / "model.safetensors")
    original.pop("lm_head.weight" if lm.config.tied else "", None)
    assert set(content) == set(original)
    assert all(np.array_equal(content[name], original[name]) for name in content)
    text = torch.tensor(rows()[1][None]).long()
    loaded = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "copy", attn_implementation="eager")
    assert type(loaded) is type(model)
    with torch.no_grad():
        np.testing.assert_array_equal(loaded(text).logits, fresh(model)(text).logits)


def same_bits(a: LanguageModel, b: LanguageModel) -> None:
    assert jax.tree.structure(a.params) == jax.tree.structure(b.params)
    for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        assert x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_old_and_new_names_of_settings_mean_the_same(folder: Folder) -> None:
    """What transformers 5 writes, and what we write in the names of 4, are the same model; and a
    file with nothing but the sizes means what transformers makes of it."""
    case, model, _ = folder
    new = model.config.to_dict()
    config = llm.config_from_hf(new)
    old = llm.config_to_hf(config)
    assert "rope_parameters" not in old
    assert llm.config_from_hf(json.loads(json.dumps(old))) == config
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
             "num_attention_heads", "n_embd", "n_layer", "n_head")  # fmt: skip
    short = {key: new[key] for key in sizes if key in new}
    if "num_attention_heads" in short:  # to share the heads of keys that are left out
        short.update(num_attention_heads=32, hidden_size=256)
    short["model_type"] = new["model_type"]
    assert llm.config_from_hf(short) == llm.config_from_hf(type(model.config)(**short).to_dict())


# --------------------------------------------------------------------------------- reward models


JUDGES = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3",
          "gpt-neox", "qwen3-moe", "mixtral")  # fmt: skip


def judges(case: str) -> Any:
    """As `theirs`, with a head that gives one number."""
    name = type(model := theirs(case)).__name__
    name = name.replace("LMHeadModel", "ForCausalLM").replace("Gemma3", "Gemma3Text")
    model.config.num_labels = 1
    if model.config.pad_token_id is None:
        model.config.pad_token_id = 0
    judge = getattr(hf, name.replace("ForCausalLM", "ForSequenceClassification"))(model.config)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in judge.parameters():
            p += 0.1 * torch.randn_like(p)
    return judge.eval()


@pytest.mark.parametrize("case", JUDGES)
def test_reward_models(case: str, tmp_path: Path) -> None:
    """The scores of transformers, from its files and from ours; and the same bits again."""
    judge = judges(case)
    judge.save_pretrained(tmp_path / "theirs")
    tokens, mask = padded(rows(), left=False)

    def expected(model: Any) -> Any:
        with torch.no_grad():
            given = torch.tensor(tokens).long(), torch.tensor(mask).long()
            return model(given[0], attention_mask=given[1]).logits[:, 0].numpy()

    ours = llm.load_scorer(tmp_path / "theirs")
    np.testing.assert_allclose(ours(tokens, mask), expected(judge), atol=2e-4, rtol=0)
    llm.save_scorer(ours, tmp_path / "ours")
    kind = hf.AutoModelForSequenceClassification
    loaded = kind.from_pretrained(tmp_path / "ours", attn_implementation="eager")
    assert type(loaded) is type(judge) and loaded.config.num_labels == 1
    np.testing.assert_array_equal(expected(loaded), expected(kind.from_pretrained(
        tmp_path / "theirs", attn_implementation="eager")))  # fmt: skip
    again = llm.load_scorer(tmp_path / "ours")
    jax.tree.map(np.testing.assert_array_equal, again.params, ours.params)
    with pytest.raises(FileRefused, match="load_scorer reads it"):
        llm.load(tmp_path / "ours")


def test_what_was_learned_from_preferences_becomes_a_folder(llama: Path, tmp_path: Path) -> None:
    """A language model with a head of its own and adapters, and nothing of either in the file."""
    lm = llm.load(llama)
    agent = llm.RewardModel(lm.network, lora=llm.Lora(rank=2))
    spec = Spec(spaces.Box(0, 60, (4,), jnp.int32), spaces.Discrete(61))
    state = agent.start_from(agent.init(jax.random.key(0), spec), lm)
    noise = jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape),
        state.params["trunk"].lora,
    )
    params = {"trunk": state.params["trunk"].with_lora(noise), "score": jnp.linspace(-1, 1, 32)}
    tokens, mask = padded(rows(), left=False)
    scores = llm.Scorer(params, lm.network)(tokens, mask)
    llm.save_scorer(llm.Scorer(params, lm.network), tmp_path)
    back = llm.load_scorer(tmp_path)
    np.testing.assert_allclose(back(tokens, mask), scores, atol=1e-4)
    loaded = hf.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        given = torch.tensor(tokens).long(), torch.tensor(mask).long()
        found = loaded(given[0], attention_mask=given[1]).logits[:, 0].numpy()
    np.testing.assert_allclose(found, scores, atol=2e-4)
    begun = llm.RewardModel(back.network)
    begun = begun.start_from(begun.init(jax.random.key(0), spec), back)  # and is taken up again
    np.testing.assert_array_equal(begun.params["score"], params["score"])
    with pytest.raises(FileRefused, match=r"'score.weight' is missing"):
        llm.load_scorer(llama)


# ------------------------------------------------------------------------------------- one family


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    theirs("llama").save_pretrained(path)
    return path


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(llama: Path, tmp_path: Path, dtype: str) -> None:
    model = hf.AutoModelForCausalLM.from_pretrained(llama, dtype=getattr(torch, dtype))
    model.save_pretrained(tmp_path / "half")
    lm = llm.load(tmp_path / "half")
    assert {x.dtype for x in jax.tree.leaves(lm.params)} == {jnp.dtype(dtype)}
    same_bits(lm, llm.load(llm.save(lm, tmp_path / "again")))
    assert json.loads((tmp_path / "again/config.json").read_text())["torch_dtype"] == dtype
    with torch.no_grad():
        expected = model.float()(torch.tensor(rows()[0][None]).long()).logits
    np.testing.assert_allclose(lm(rows()[0][None]), expected, atol=2e-4, rtol=0)
    wide = llm.load(tmp_path / "half", dtype=jnp.float32)
    assert {x.dtype for x in jax.tree.leaves(wide.params)} == {jnp.dtype("float32")}


def test_each_tensor_is_put_where_it_belongs(llama: Path) -> None:
    size = min(2, jax.device_count())
    mesh = jax.make_mesh((size,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    asked: dict[str, tuple[int, ...]] = {}

    def place(path: str, shape: tuple[int, ...]) -> jax.sharding.NamedSharding:
        asked[path] = shape
        axes = (None, "x") if path.endswith("kernel") else ()
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))

    lm = llm.load(llama, place=place)
    assert asked["blocks_1/attention/key/kernel"] == (32, 16)
    kernel = lm.params["blocks_1"]["attention"]["key"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (32, 16 // size)
    whole = llm.load(llama)
    same_bits(lm, whole)
    text = rows()[0][None]
    np.testing.assert_allclose(lm(text), whole(text), atol=1e-5)


def test_gpt2_as_it_lies_on_the_hub(tmp_path: Path) -> None:
    """Names without their root, and the mask of the attention among the tensors."""
    model = theirs("gpt2")
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = {k.removeprefix("transformer."): v for k, v in safetensors.load_file(file).items()}
    tensors["h.0.attn.bias"] = np.ones((1, 1, 64, 64), np.float32)
    safetensors.save_file(tensors, file, {"format": "pt"})
    text = rows()[1][None]
    with torch.no_grad():
        expected = model(torch.tensor(text).long()).logits
    np.testing.assert_allclose(llm.load(tmp_path)(text), expected, atol=2e-4, rtol=0)


Change = Callable[[dict[str, Any], dict[str, Any]], None]
CHANGES: dict[str, tuple[Change, str]] = {
    "missing": (lambda t, c: t.pop("model.layers.1.mlp.up_proj.weight"),
                "tensor 'model.layers.1.mlp.up_proj.weight' is missing"),
    "misshaped": (lambda t, c: t.update({"model.norm.weight": np.ones(31, np.float32)}),
                  r"'model.norm.weight' has shape \(31,\), but .* \(32,\)"),
    "unexpected": (lambda t, c: t.update({"model.extra.weight": np.ones(3, np.float32)}),
                   "'model.extra.weight' is not part of a llama model"),
    "whole numbers": (lambda t, c: t.update({"model.norm.weight": np.ones(32, np.int32)}),
                      "'model.norm.weight' holds int32"),
    "another head": (lambda t, c: c.update(tie_word_embeddings=True),
                     "'lm_head.weight' differs from the embedding"),
    "no head": (lambda t, c: t.pop("lm_head.weight"), "'lm_head.weight' is missing"),
    "another family": (lambda t, c: c.update(model_type="mamba"), "model_type is 'mamba'"),
    "more layers": (lambda t, c: c.update(num_hidden_layers=3), r"model.layers.2.* and 4 others"),
    "quantised": (lambda t, c: c.update(quantization_config={"bits": 4}), "quantization_config"),
    "rope": (lambda t, c: c.update(rope_parameters={"rope_type": "spiral"}), "'spiral'"),
    "activation": (lambda t, c: c.update(hidden_act="mish"), "activation is 'mish'"),
    "many": (lambda t, c: c.update(num_hidden_layers=10**9), "1,000,000,000 layers"),
    "nonsense": (lambda t, c: c.update(rope_parameters=3), "settings make no sense"),
    "heads": (lambda t, c: c.update(num_key_value_heads=3), "4 heads cannot share 3"),
    "size": (lambda t, c: c.update(hidden_size="32"), "hidden_size is '32'"),
}  # fmt: skip


@pytest.mark.parametrize("change", list(CHANGES))
def test_what_does_not_fit_is_refused(llama: Path, tmp_path: Path, change: str) -> None:
    copy = shutil.copytree(llama, tmp_path / "copy")
    alter, message = CHANGES[change]
    tensors = dict(safetensors.load_file(copy / "model.safetensors"))
    config = json.loads((copy / "config.json").read_text())
    alter(tensors, config)
    safetensors.save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileRefused, match=message):
        llm.load(copy)


def test_damaged_files_are_refused(llama: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(llama, tmp_path / "copy")
    file = copy / "model.safetensors"
    content = file.read_bytes()
    last = max(
        ((about["data_offsets"][1], name) for name, about in header(content).items()
         if name != "__metadata__")
    )[1]  # fmt: skip
    for size, message in ((len(content) - 1, f"tensor '{last}'"), (500, "header"), (3, "header")):
        file.write_bytes(content[:size])
        with pytest.raises(FileRefused, match=message):
            llm.load(copy)
    file.unlink()
    with pytest.raises(FileRefused, match=r"neither model.safetensors nor"):
        llm.load(copy)
    index = copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "../model.safetensors"}}))
    with pytest.raises(FileRefused, match="'../model.safetensors' that it names is not there"):
        llm.load(copy)
    with pytest.raises(FileNotFoundError, match=r"no folder with a config.json"):
        llm.load(tmp_path)


def header(content: bytes) -> dict[str, Any]:
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def test_a_model_is_not_overwritten_by_mistake(llama: Path, tmp_path: Path) -> None:
    lm = llm.load(llama)
    llm.save(lm, tmp_path)
    with pytest.raises(FileExistsError, match="replace=True"):
        llm.save(lm, tmp_path)
    bad = LanguageModel({**lm.params, "more": jnp.ones(3)}, lm.network)
    with pytest.raises(ValueError, match="'more' is not part of"):
        llm.save(bad, tmp_path / "bad")


def test_the_layout_holds_every_parameter_once(folder: Folder) -> None:
    lm = llm.load(folder[2])
    paths = [path for entry in layout(lm.config) for path in entry.paths]
    made = jax.eval_shape(lm.network.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    made = made["params"]
    flat = {"/".join(k.key for k in p): x for p, x in jax.tree_util.tree_leaves_with_path(made)}
    assert sorted(paths) == sorted(flat)
    assert jax.tree.structure(made) == jax.tree.structure(lm.params)
