"""Parameters to PyTorch and back, exactly, and everything that may not fit."""

import contextlib
import os
import pickle
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from parity.models import tied
from parity.test_interop_layers import bits, tensor_bits
from safetensors.torch import save_model

from ch4jax import deep_mlp
from ch4jax.errors import Damaged, Mismatch, Refused
from ch4jax.initialization import xavier_uniform
from ch4jax.interop import from_torch, load_torch, save_torch, to_torch
from ch4jax.storage._leaves import DTYPES, NATIVE
from experiments.pytorch import twins


def deep(depth):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(
        lambda key: deep_mlp.init_params(6, 5, depth, 3, xavier_uniform, key=key),
        jax.random.key(0),
    )
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)
    return params, twins.DeepMLP(6, 5, depth, 3, torch.relu)


@pytest.mark.parametrize("depth", [1, 13])
def test_stacked_layers_go_to_pytorch_and_back_exactly(depth, x64):
    params, twin = deep(depth)
    theirs = to_torch(params, twin)
    for layer, kernel in enumerate(params.hidden.kernel):
        np.testing.assert_array_equal(theirs[f"hidden.{layer}.weight"].T, kernel)
    assert bits(from_torch(theirs, params)) == bits(params)


@pytest.mark.parametrize("form", ["Dense_", "layers_", "list"])
def test_the_tenth_layer_comes_after_the_ninth_in_any_order_of_entries(form):
    net = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(12)))
    one = {"kernel": np.zeros((2, 2)), "bias": np.zeros(2)}
    like = [one] * 12 if form == "list" else {f"{form}{i}": one for i in range(12)}
    backwards = dict(reversed(net.state_dict().items()))
    layers = from_torch(backwards, like)
    for i, layer in enumerate(net):
        ours = layers[i] if form == "list" else layers[f"{form}{i}"]
        np.testing.assert_array_equal(ours["kernel"], layer.weight.detach().T)


@pytest.mark.parametrize("dtype", [*NATIVE, "bfloat16"])
def test_every_dtype_that_both_have_keeps_every_bit(dtype, x64):
    """Random bytes hold NaNs of every kind."""
    size = DTYPES[dtype].itemsize
    raw = np.random.default_rng(0).integers(0, 256, (6 * size,), np.uint8)
    raw = raw % 2 if dtype == "bool" else raw
    tensor = torch.tensor(raw).view(getattr(torch, dtype)).reshape(3, 2)
    like = {"x": jax.ShapeDtypeStruct((3, 2), jnp.float32)}
    ours = from_torch({"x": tensor}, like)
    assert ours["x"].dtype == dtype
    assert np.asarray(ours["x"]).tobytes() == raw.tobytes()
    assert tensor_bits(to_torch(ours, {"x": tensor})) == tensor_bits({"x": tensor})


def test_a_dtype_that_would_change_is_refused():
    with pytest.raises(Mismatch, match=r"^x is float64, which needs jax_enable_x64"):
        from_torch({"x": torch.zeros(2).double()}, {"x": np.zeros(2)})
    with pytest.raises(Mismatch, match=r"^x is int4: expected a dtype of NumPy's"):
        to_torch({"x": jnp.zeros(2, jnp.int4)}, {"x": torch.zeros(2)})
    with pytest.raises(Mismatch, match=r"^x is float8_e5m2: expected a dtype of "):
        from_torch({"x": torch.zeros(2).to(torch.float8_e5m2)}, {"x": np.zeros(2)})


def test_stacked_layers_need_one_dtype():
    params, twin = deep(4)
    twin.hidden[1].bfloat16()
    message = "hidden.1.weight is bfloat16, and other layers"
    with pytest.raises(Mismatch, match=message):
        from_torch(twin.state_dict(), params)


def test_values_are_copied_so_work_in_place_does_not_reach_the_other_side():
    net = torch.nn.Linear(64, 64)
    like = {"kernel": np.zeros((64, 64)), "bias": np.zeros(64)}
    ours = from_torch(dict(net.named_parameters()), like)
    theirs = to_torch(ours, net.state_dict())
    before, kept = bits(ours), tensor_bits(theirs)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    assert tensor_bits(theirs) == kept
    for tensor in theirs.values():
        tensor.zero_()
    assert bits(ours) == before


def shared_state_dict():
    layer = torch.nn.Linear(2, 2)
    return torch.nn.Sequential(layer, torch.nn.ReLU(), layer).state_dict()


def test_a_shared_layer_is_one_leaf_here_and_one_tensor_there():
    like = {"shared": {"kernel": np.zeros((2, 2)), "bias": np.zeros(2)}}
    names = {"0": "shared", "2": "shared"}
    given = shared_state_dict()
    ours = from_torch(given, like, names=names)
    theirs = to_torch(ours, given, names=names)
    assert theirs["0.weight"] is theirs["2.weight"]
    assert tensor_bits(theirs) == tensor_bits(given)
    given["2.weight"] = given["2.weight"] * (1 + 2e-7)
    with pytest.raises(Mismatch, match=r"^0.weight and 2.weight are one shared/kernel"):
        from_torch(given, like, names=names)


LIKE = {
    "params": {
        "hidden": {"kernel": np.zeros((4, 8)), "bias": np.zeros(8)},
        "out": {"kernel": np.zeros((8, 1)), "bias": np.zeros(1)},
    }
}


def state_dict(*, without=(), **changed):
    """Return what fits LIKE, except for the changes; `__` in a name is its dot."""
    good = twins.MLP(4, 8, 1).state_dict()
    good |= {name.replace("__", "."): value for name, value in changed.items()}
    return {name: value for name, value in good.items() if name not in without}


ERRORS = {
    "not transposed": (
        state_dict(hidden__weight=torch.zeros(4, 8)),
        "hidden.weight (4, 8) does not fit params/hidden/kernel (4, 8)",
    ),
    "missing": (
        state_dict(without=["out.bias"]),
        "params/out/bias (1,) has no counterpart",
    ),
    "more": (
        state_dict(out__scale=torch.zeros(3)),
        "out.scale (3,) has no counterpart",
    ),
    "renamed": (
        state_dict(without=["out.weight"], exit__weight=torch.zeros(1, 8)),
        "exit.weight (1, 8) has no counterpart; "
        "params/out/kernel (8, 1) would fit: say so by `names`\n"
        "params/out/kernel (8, 1) has no counterpart; "
        "exit.weight (1, 8) would fit: say so by `names`\n"
        "if that is right, pass names={'exit.weight': 'params/out/kernel'}",
    ),
    "renamed and of another shape": (
        state_dict(without=["out.weight"], exit__weight=torch.zeros(1, 9)),
        "exit.weight (1, 9) has no counterpart; closest: params/out/kernel (8, 1)\n"
        "params/out/kernel (8, 1) has no counterpart; closest: exit.weight (1, 9)",
    ),
    "two that fit": (
        state_dict(
            without=["out.bias"], a__bias=torch.zeros(1), b__bias=torch.zeros(1)
        ),
        "a.bias (1,) has no counterpart; "
        "params/out/bias (1,) would fit: say so by `names`\n"
        "b.bias (1,) has no counterpart; "
        "params/out/bias (1,) would fit: say so by `names`\n"
        "params/out/bias (1,) has no counterpart; "
        "a.bias and b.bias would fit: say which by `names`",
    ),
    "an entry that is no tensor": (
        state_dict(epoch=3),
        "epoch in the state_dict is a int: expected a tensor",
    ),
    "a lazy module": (
        torch.nn.LazyLinear(3).state_dict(),
        "weight in the state_dict has no shape yet: run its module once",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_does_not_fit_is_named_in_a_line(name):
    given, message = ERRORS[name]
    with pytest.raises(Mismatch) as error:
        from_torch(given, LIKE)
    assert str(error.value) == message
    with pytest.raises(Mismatch) as error:
        to_torch(LIKE, given)
    assert str(error.value) == message.replace("the state_dict", "`like`")


def test_names_decide_what_the_rules_leave_open():
    given = {"a.weight": torch.ones(1, 8), "encoder.first.weight": torch.ones(8, 4)}
    given |= {"beta": torch.ones(1), "encoder.first.bias": torch.ones(8)}
    names = {"a": "out", "encoder.first": "hidden", "beta": "out/bias"}
    ours = from_torch(given, LIKE, names=names)
    assert all((leaf == 1).all() for leaf in jax.tree.leaves(ours))
    assert tensor_bits(to_torch(ours, given, names=names)) == tensor_bits(given)
    with pytest.raises(Mismatch, match="no tensor's name starts with 'exit'"):
        from_torch(given, LIKE, names={**names, "exit": "out"})


def test_names_match_whole_parts_and_the_longest_match_counts():
    like = {name: {"scale": np.zeros(2)} for name in ("x", "y", "10")}
    given = {
        f"{start}.scale": torch.full((2,), float(n))
        for n, start in enumerate(("1", "1.a", "10"))
    }
    ours = from_torch(given, like, names={"1": "x", "1.a": "y"})
    assert [ours[name]["scale"][0] for name in ("x", "y", "10")] == [0, 1, 2]


def test_one_name_in_two_collections_is_refused():
    like = {"params": {"scale": np.zeros(2)}, "constants": {"scale": np.zeros(2)}}
    with pytest.raises(Mismatch, match="constants/scale and params/scale have one"):
        from_torch({"scale": torch.zeros(2)}, like)


def test_layers_of_two_kinds_or_of_another_number_are_not_counted_off():
    dense = {"kernel": np.zeros((2, 2)), "bias": np.zeros(2)}
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    with pytest.raises(Mismatch, match=r"names=\{'0': 'Dense_0', '1': 'Other_0'\}"):
        from_torch(net.state_dict(), {"Dense_0": dense, "Other_0": dense})
    with pytest.raises(Mismatch, match=r"^Dense_2/bias \(2,\) has no counte"):
        from_torch(net.state_dict(), {f"Dense_{i}": dense for i in range(3)})


# Files


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_a_file_gives_back_what_was_saved(suffix, tmp_path):
    tensors = twins.MLP(4, 8, 1).state_dict()
    tensors |= {
        "half": torch.randn(3).bfloat16(),
        "view": torch.randn(3, 2).T,
        "none": torch.zeros(0, 3),
        "scalar": torch.tensor(2.0, dtype=torch.float64),
    }
    save_torch(tmp_path / f"net{suffix}", tensors)
    loaded = load_torch(str(tmp_path / f"net{suffix}"))
    with jax.enable_x64(True):
        assert bits(from_torch(loaded)) == bits(from_torch(tensors))
    assert [path.name for path in tmp_path.iterdir()] == [f"net{suffix}"]


def test_sharing_comes_back_from_pt_and_is_refused_for_safetensors(tmp_path):
    tensors = shared_state_dict()
    save_torch(tmp_path / "net.pt", tensors)
    loaded = load_torch(tmp_path / "net.pt")
    assert loaded["0.weight"].data_ptr() == loaded["2.weight"].data_ptr()
    message = "0.weight and 2.weight share memory, .* save them as .pt, or a clone"
    with pytest.raises(Refused, match=message):
        save_torch(tmp_path / "net.safetensors", tensors)
    assert not (tmp_path / "net.safetensors").exists()


class Code:
    """What a pickle can hold, and runs when it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x": torch.zeros(2), "y": Code()}, "net.pt holds posix.mkdir: expected only"),
        (torch.nn.Linear(2, 2), "net.pt holds torch.nn.modules.linear.Linear: "),
        ([torch.zeros(2), 3], "1 in net.pt is a int: expected a tensor"),
        ({"model": {"epoch": 3}}, "epoch in model in net.pt is a int: expected a "),
        ({"epoch": 3, "model": {}}, r".*; or name the entry to load, of \['model'\]"),
        ({3: torch.zeros(2)}, "net.pt has the key 3: expected a name"),
    ],
)
def test_code_in_a_file_is_named_and_not_run(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "net.pt")
    expected = message.replace("net.pt", str(tmp_path / "net.pt"))
    with pytest.raises(Mismatch, match=f"^{expected}") as error:
        load_torch("net.pt")
    assert "\n" not in str(error.value)
    assert not os.path.exists("ran")


def test_the_entry_of_a_training_checkpoint_with_the_weights_is_named(tmp_path):
    state = torch.nn.Linear(2, 3).state_dict()
    torch.save({"epoch": 3, "state_dict": state, "lr": [0.1]}, tmp_path / "last.ckpt")
    loaded = load_torch(tmp_path / "last.ckpt", "state_dict")
    assert tensor_bits(loaded) == tensor_bits(state)
    with pytest.raises(Mismatch, match=r"no entry 'model': it has \['epoch', 'state_d"):
        load_torch(tmp_path / "last.ckpt", "model")


def test_a_name_in_the_metadata_of_safetensors_is_the_tensor_that_it_stands_for(
    tmp_path, monkeypatch
):
    theirs = tied.torch_module()
    save_model(theirs, str(tmp_path / "model.bin"))
    monkeypatch.setitem(sys.modules, "torch", None)
    loaded = load_torch(tmp_path / "model.bin")
    assert loaded["decoder.weight"] is loaded["encoder.weight"]
    ours = from_torch(loaded, tied.flax_module(), names={"encoder": "embed"})
    np.testing.assert_array_equal(
        ours.embed.embedding[...], theirs.encoder.weight.detach().numpy()
    )


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_no_part_of_a_file_is_taken_for_the_whole(suffix, tmp_path):
    path = tmp_path / f"net{suffix}"
    save_torch(path, {"x": torch.zeros(3), "y": torch.ones(4)})
    whole = path.read_bytes()
    lengths = np.random.default_rng(0).integers(0, len(whole), 30)
    contents = [b"", b"not a model", pickle.dumps({}, 2)[:-1], whole[:-1]]
    for content in [*contents, *(whole[:n] for n in lengths)]:
        path.write_bytes(content)
        with pytest.raises(Damaged, match="does not hold whole tensors") as error:
            load_torch(path)
        assert "\n" not in str(error.value)


def test_a_flipped_bit_in_a_pt_file_is_not_loaded_as_other_numbers(tmp_path):
    path, tensor = tmp_path / "net.pt", torch.arange(200.0)
    save_torch(path, {"x": tensor})
    whole = path.read_bytes()
    for at in np.random.default_rng(0).integers(0, len(whole), 200):
        content = bytearray(whole)
        content[at] ^= 1 << at % 8
        path.write_bytes(content)
        with contextlib.suppress(Damaged, Mismatch):
            assert torch.equal(load_torch(path)["x"], tensor)


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    with pytest.raises(Refused, match="__metadata__ is a name that safetensors reserv"):
        save_torch(tmp_path / "x.safetensors", {"__metadata__": torch.ones(1)})
    for name in ("x.safetensors", "x.pt"):
        with pytest.raises(Mismatch, match="a is >f4: expected a dtype of NumPy's"):
            save_torch(tmp_path / name, {"a": np.ones(2, ">f4")})
        with pytest.raises(Mismatch, match="a in the state_dict is a int: "):
            save_torch(tmp_path / name, {"a": 3})
    assert not list(tmp_path.iterdir())


def brackets(depth):
    """Return a pickle of nested lists, as large as it is deep."""
    return b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_of_brackets_is_refused_before_it_is_unpickled(
    packed, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    path, content = tmp_path / "net.pt", brackets(2**20)
    path.write_bytes(content)
    if packed:
        with zipfile.ZipFile(path, "w") as zipped:
            zipped.writestr("net/data.pkl", content)
    with pytest.raises(Mismatch, match="1,048,576 values that are no tensors"):
        load_torch(path)


def test_a_file_that_claims_more_than_it_has_is_refused_before_it_is_read(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    path = tmp_path / "net.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("net/data/0", bytes(10**6))
    with pytest.raises(Mismatch, match="bytes and claims 1,000,000"):
        load_torch(path)


def test_a_tensor_that_repeats_one_number_half_a_billion_times_is_refused(tmp_path):
    torch.save({"a": torch.ones(1).expand(2**29)}, tmp_path / "net.pt")
    with pytest.raises(Mismatch, match=r"a in .* claims 2,147,483,648 bytes"):
        load_torch(tmp_path / "net.pt")


def test_what_is_no_regular_file_or_not_there_is_an_error(tmp_path):
    os.mkfifo(tmp_path / "net.pt")
    for path, reason in (
        (tmp_path / "net.pt", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        (tmp_path / "missing", "No such file"),
    ):
        with pytest.raises(Damaged, match=f"cannot be read: {reason}"):
            load_torch(path)


COMPLEX = torch.tensor([1 + 2j, 3 - 4j])


@pytest.mark.parametrize("view", [COMPLEX.conj(), COMPLEX.conj().imag])
def test_conjugated_and_negated_views_come_as_what_they_show(view, tmp_path):
    expected = view.resolve_conj().resolve_neg().numpy()
    np.testing.assert_array_equal(from_torch(view), expected)
    for suffix in ("pt", "safetensors"):
        save_torch(tmp_path / f"net.{suffix}", {"a": view})
        loaded = from_torch(load_torch(tmp_path / f"net.{suffix}"))
        np.testing.assert_array_equal(loaded["a"], expected)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(2, device="meta"), "on the meta device: it has no values"),
        (torch.eye(2).to_sparse(), "sparse_coo: expected a dense tensor"),
    ],
)
def test_a_tensor_without_dense_values_is_named(tensor, message, tmp_path):
    with pytest.raises(Mismatch, match=f"^a in it is .*{message}"):
        from_torch({"a": tensor})
    with pytest.raises(Mismatch, match=f"^a is .*{message}"):
        save_torch(tmp_path / "net.safetensors", {"a": tensor})
    assert not list(tmp_path.iterdir())
    torch.save({"a": tensor}, tmp_path / "net.pt")
    with pytest.raises(Mismatch, match=f"^a in it is .*{message}"):
        from_torch(load_torch(tmp_path / "net.pt"))


def test_a_tree_that_is_one_array_has_no_names():
    with pytest.raises(Mismatch, match="the tree is a single array"):
        from_torch({"a": torch.ones(2)}, jnp.ones(2))


def test_an_error_of_ours_is_not_taken_for_a_damaged_file(tmp_path, monkeypatch):
    save_torch(tmp_path / "net.pt", {"x": torch.zeros(3)})
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(TypeError, match="not callable"):
        load_torch(tmp_path / "net.pt")


# the text's own files and classes

FOUR, ZEROS = torch.arange(4), torch.zeros(4)


@pytest.mark.parametrize("saved", [FOUR, [FOUR, ZEROS], {"x": FOUR, "y": ZEROS}])
def test_the_texts_files_load_whatever_their_names(saved, tmp_path):
    torch.save(saved, tmp_path / "x-files")
    with jax.enable_x64(True):
        loaded = from_torch(load_torch(tmp_path / "x-files"))
    jax.tree.map(np.testing.assert_array_equal, loaded, saved)
