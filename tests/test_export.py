"""An export: other programs can read it, and no changed bit is loaded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from support import one_line

from ch4jax import training
from ch4jax.blocks import MLP
from ch4jax.errors import Damaged, Mismatch, Refused
from ch4jax.interop import export, load_exported

PAIR = "\ud83d\ude00"  # of surrogates
CONFIG = {"hidden": 256, "rates": (0.2, 0.5), "name": "é", "seed": None}


def params():
    return MLP().init(jax.random.key(0), jnp.zeros((1, 20)))


def test_parameters_and_configuration_come_back(tmp_path):
    export(tmp_path / "model", params(), CONFIG)
    loaded, config = load_exported(tmp_path / "model")
    jax.tree.map(np.testing.assert_array_equal, loaded, params())
    assert config == {**CONFIG, "rates": [0.2, 0.5]}
    files = {path.name for path in (tmp_path / "model").iterdir()}
    assert files == {"model.safetensors", "config.json", "README.md"}
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    for fact in (
        *("7,946 parameters", "`params.hidden.kernel` | float32 | (20, 256)"),
        *("from ch4jax.interop import load_exported", '"rates": ['),
    ):
        assert fact in card


def test_any_reader_of_safetensors_finds_tensors_by_dotted_names(tmp_path):
    tree = {"layers": [{"kernel": jnp.ones((2, 3), jnp.bfloat16)}, None, np.zeros(0)]}
    export(tmp_path / "model", tree, {})
    tensors = safetensors.numpy.load_file(tmp_path / "model" / "model.safetensors")
    assert set(tensors) == {"layers.0.kernel", "layers.2"}
    assert tensors["layers.0.kernel"].dtype == jnp.bfloat16
    loaded, _ = load_exported(tmp_path / "model")
    assert jax.tree.structure(loaded) == jax.tree.structure(tree)
    assert isinstance(loaded["layers"][0]["kernel"], jax.Array)
    assert loaded["layers"][2].dtype == np.float64


def test_named_tuples_come_back_into_their_like(tmp_path):
    state = training.TrainState(params(), (), jnp.zeros((), jnp.int32))
    export(tmp_path / "model", state, {})
    loaded, _ = load_exported(tmp_path / "model", like=state)
    assert type(loaded) is training.TrainState
    with pytest.raises(Mismatch, match="which needs an example"):
        load_exported(tmp_path / "model")


def test_no_changed_bit_of_model_or_configuration_is_loaded(tmp_path):
    export(tmp_path / "model", params(), CONFIG)
    rng = np.random.default_rng(0)
    for name in ("model.safetensors", "config.json") * 20:
        file = tmp_path / "model" / name
        content = file.read_bytes()
        flipped = bytearray(content)
        # Letters and digits: a space of the JSON may turn into another space.
        where = [i for i, byte in enumerate(content) if chr(byte) not in " \n"]
        flipped[rng.choice(where)] ^= 1 << int(rng.integers(7))
        file.write_bytes(flipped)
        with one_line(Damaged, rf"model: {name} "):
            load_exported(tmp_path / "model")
        file.write_bytes(content)
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(Damaged, match=r"model.safetensors cannot be read: No such"):
        load_exported(tmp_path / "model")


@pytest.mark.parametrize(
    ("tree", "config", "reason"),
    [
        ({"x": object()}, {}, r"\['x'\] is a object"),
        ({"x": np.ones(1, np.complex128)}, {}, r"\['x'\] is complex128, which safet"),
        *(
            ({"x": jnp.ones(1)}, {"rate": value}, "JSON cannot hold this")
            for value in (print, np.nan, {1: 2}, {None: 1}, {"1": 1, 1: 2}, PAIR)
        ),
        ({"__metadata__": jnp.ones(1)}, {}, "a name that safetensors reserves"),
    ],
)
def test_what_could_not_come_back_is_refused(tree, config, reason, tmp_path):
    with pytest.raises(Refused, match=reason):
        export(tmp_path / "model", tree, config)
    assert not list(tmp_path.iterdir())
