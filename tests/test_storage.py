"""Saving and loading: what comes back is what was saved, or an error that says why."""

import errno
import hashlib
import itertools
import json
import os
import pickle
import re
import shutil
import tempfile
from collections import ChainMap, Counter, OrderedDict, defaultdict
from contextlib import suppress
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import NamedTuple
from unittest.mock import Mock

import flax.training.train_state
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from orbax.checkpoint import StandardCheckpointer
from support import everything_in, one_line

from ch4jax import house_prices, storage, training
from ch4jax.errors import Damaged, Mismatch, Refused
from ch4jax.interop import export, load_exported, load_torch, save_torch
from ch4jax.storage import _manifest, _trees, atomic
from ch4jax.storage._leaves import DTYPES


class Pair(NamedTuple):
    first: object
    second: object


W = jnp.ones((3, 4))


@partial(jax.tree_util.register_dataclass, data_fields=["a", "b"], meta_fields=[])
@dataclass
class Record:
    a: object
    b: object


@jax.tree_util.register_pytree_node_class
@dataclass
class Nameless:
    """A custom node whose children JAX only numbers."""

    a: object
    b: object

    def tree_flatten(self):
        return (self.a, self.b), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def same(a, b):
    """Return whether types, dtypes and every bit of two trees are the same."""
    weak_types = (getattr(x, "weak_type", False) for x in (a, b))
    if type(a) is not type(b) or len(set(weak_types)) > 1:
        return False
    container, other = _manifest.open_container(a), _manifest.open_container(b)
    if container is not None and other is not None:
        ours, theirs = container.children, other.children
        alike = map(same, ours.values(), theirs.values())
        return list(ours) == list(theirs) and all(alike)
    if hasattr(a, "dtype") and jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        if jax.random.key_impl(a) != jax.random.key_impl(b):
            return False
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    if hasattr(a, "dtype"):
        a, b = np.asarray(a), np.asarray(b)
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    return pickle.dumps(a) == pickle.dumps(b)


def some_tree():
    """Return a tree with one leaf of every kind."""
    return {
        "array": jnp.arange(4),
        "bfloat16": jnp.array([1.5, -0.0, jnp.nan], jnp.bfloat16),
        "float64": np.array([1 / 3, np.inf]),
        "bool": jnp.array([True, False]),
        "scalar": np.float32(0.1),
        "weak": [jnp.asarray(1.5), jnp.broadcast_to(jnp.asarray(2), (2, 1))],
        "key": jax.random.key(7),
        "keys": jax.random.split(jax.random.key(8, impl="rbg"), (2, 1)),
        "no keys": jax.random.split(jax.random.key(9, impl="rbg"), 0),
        "none": None,
        "python": [True, -(10**30), 0.1, float("nan"), 1j, "é\ud800\n"],
        "empty": ({}, [], (), jnp.zeros((0, 3)), np.zeros((2, 0), np.int8)),
        "a.b": {"a/b": jnp.zeros(())},
        "a": {"b": (jnp.ones(1),)},
        3: [np.ones((2, 2), order="F")[:, ::-1], np.ones((1,) * 33)],
    }


@pytest.mark.parametrize("tree", [some_tree(), jnp.arange(4), None, {}])
def test_what_is_loaded_is_what_was_saved(tree, tmp_path):
    storage.save(tmp_path / "x", tree)
    assert same(storage.load(tmp_path / "x"), tree)
    assert same(storage.load(str(tmp_path / "x"), like=tree), tree)


def test_like_may_be_abstract_or_numpy_or_leave_parts_open(tmp_path):
    tree = {"x": jnp.arange(3.0), "key": jax.random.key(0), "more": [1, "two"]}
    storage.save(tmp_path / "x", tree)
    abstract = jax.eval_shape(lambda: {"x": jnp.zeros(3), "key": jax.random.key(1)})
    assert same(storage.load(tmp_path / "x", like={**abstract, "more": ...}), tree)
    loaded = storage.load(tmp_path / "x", like={**tree, "x": np.zeros(3, np.float32)})
    assert same(loaded["x"], np.arange(3, dtype=np.float32))


class Swapped(NamedTuple):
    second: object
    first: object


@pytest.mark.parametrize(
    ("saved", "like", "expected"),
    [
        (OrderedDict(a=1, b=2), OrderedDict(b=0, a=0), OrderedDict(b=2, a=1)),
        (Pair(1, W), Swapped(..., ...), Swapped(W, 1)),
    ],
)
def test_children_come_back_by_name_not_by_place(saved, like, expected, tmp_path):
    Swapped.__name__ = "Pair"  # as in newer code, which moved a field
    storage.save(tmp_path / "x", saved)
    assert same(storage.load(tmp_path / "x", like=like), expected)


def test_a_part_of_a_state_is_restored_without_knowing_the_rest(tmp_path):
    state = training.init_state({"w": W}, optax.adam(0.1))
    storage.save(tmp_path / "x", {"state": state, "history": [1.0]})
    like = {"state": state._replace(opt_state=storage.SKIP), "history": storage.SKIP}
    loaded = storage.load(tmp_path / "x", like=like)
    assert same(loaded["state"].params, {"w": W})
    assert loaded["state"].opt_state is loaded["history"] is storage.SKIP


def test_a_fresh_train_state_of_flax_restores_a_trained_one(tmp_path):
    fresh = flax.training.train_state.TrainState.create(
        apply_fn=None, params={"w": W}, tx=optax.sgd(0.1)
    )
    trained = jax.jit(lambda state: state.apply_gradients(grads={"w": W}))(fresh)
    storage.save(tmp_path / "x", trained)
    assert same(storage.load(tmp_path / "x", like=fresh), trained)
    for number in (0.0, True, "0"):
        with pytest.raises(Mismatch, match=r"step: int32\[\] was saved, expected"):
            storage.load(tmp_path / "x", like=fresh.replace(step=number))


def test_a_plain_user_of_orbax_reads_the_arrays_by_name(tmp_path):
    tree = some_tree()
    storage.save(tmp_path / "x", tree)
    orbax = StandardCheckpointer().restore(tmp_path / "x" / "arrays")
    for name in ("array", "bfloat16", "float64", "bool"):
        assert same(orbax[name], np.asarray(tree[name]))
    assert same(orbax["a"]["b"][0], np.ones(1, np.float32))
    assert same(orbax["key"], np.asarray(jax.random.key_data(tree["key"])))
    target = {"layer": {"w": jnp.zeros((3, 4)), "b": [jnp.zeros(2), np.zeros(1)]}}
    like = jax.tree.map(lambda x: x + 1, target)
    storage.save(tmp_path / "y", like)
    restored = StandardCheckpointer().restore(tmp_path / "y" / "arrays", target)
    assert same(restored, like)


def test_what_version_0_1_saved_is_read(tmp_path):
    shutil.unpack_archive(Path(__file__).with_name("written_by_0_1.zip"), tmp_path)
    step, tree = storage.Checkpoints(tmp_path / "run").restore()
    assert step == 3
    assert same(tree["params"]["w"], jnp.array([1.5, -0.0, jnp.nan], jnp.bfloat16))
    assert same(tree["params"]["b"], jnp.array([True, False]))
    assert same(tree["key"], jax.random.key(7))
    assert same(tree["history"], [np.arange(3), 0.1, "é"])
    exported = {"w": jnp.arange(3.0)}, {"rate": 0.5}
    assert same(load_exported(tmp_path / "model"), exported)
    storage.Checkpoints(tmp_path / "run", keep=1).save(4, tree)
    export(tmp_path / "model", tree["params"], {})


# Refused before anything is written


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ({"f": [print]}, r"\['f'\]\[0\] is a builtin_function_or_method: expected"),
        ({"x": np.ones(2, ">f4")}, r"\['x'\] has the dtype >f4"),
        ({"x": np.array(["a"])}, r"\['x'\] has the dtype <U1"),
        ({"x": np.array([object()])}, r"\['x'\] has the dtype object"),
        ({"x": np.ma.masked_array([1])}, r"\['x'\] is a MaskedArray"),
        ({"x": np.longdouble(1)}, r"\['x'\] has the dtype"),
        ({"x": np.array("2020-01-01", "M8[D]")}, r"\['x'\] has the dtype datetime64"),
        ({"x": {1.5: 1}}, r"\['x'\] has the key 1.5: expected a str or an int"),
        ({True: 1}, r"the tree has the key True"),
        ({"x": {1, 2}}, r"\['x'\] is a set: expected"),
        ({"x": b"bytes"}, r"\['x'\] is a bytes: expected"),
        ({"x": "\ud83d\ude00"}, r"\['x'\] has a surrogate pair"),
        ({"x": {"\ud83d\ude00": 1}}, r"\['x'\] has the key .*no pair of surrogates"),
        ({"x": {"\ud800": W}}, r"\['x'\]\['.ud800'\] has a name that UTF-8 cannot"),
        ({"a.b": W, "a": {"b": W}}, r"\['a.b'\] and \['a'\]\['b'\] would both be ca"),
        ({"x": {1: W, "1": 0}}, r"\['x'\] has two children that would be called 1"),
        (defaultdict(int, {1: 1, "a": 1}), "a defaultdict has keys of several types"),
        (OrderedDict({float("nan"): 1, -float("nan"): 2}), "children of the same name"),
        (reduce(lambda inner, _: [inner], range(200), []), "nested more than 100 deep"),
    ],
)
def test_what_could_not_come_back_is_refused_by_name(tree, reason, tmp_path):
    with pytest.raises(Refused, match=reason):
        storage.save(tmp_path / "x", tree)
    assert not list(tmp_path.iterdir())


def test_deleted_and_traced_arrays_are_refused(tmp_path):
    array = jnp.ones(3)
    array.delete()
    with pytest.raises(Refused, match=r"\['x'\] was deleted"):
        storage.save(tmp_path / "x", {"x": array})
    with pytest.raises(Refused, match="is being traced: save outside of jit"):
        jax.jit(lambda x: storage.save(tmp_path / "x", x))(jnp.ones(3))
    assert not list(tmp_path.iterdir())


FOREIGN = {  # the files of a folder that ch4jax did not write
    "thesis": {"chapter.txt": "years of work"},
    "web application": {"manifest.json": '{"name": "ch4jax"}', "index.html": ""},
    "run": {"config.json": '{"seed": 0}', "checkpoints/00000001/manifest.json": "{}"},
    "Hugging Face": {"config.json": "{}", "model.safetensors": "weights"},
    "only a manifest": {"manifest.json": "", "config.json": ""},
    "nothing": {},
}


@pytest.mark.parametrize("files", FOREIGN.values(), ids=list(FOREIGN))
def test_what_was_not_saved_here_is_never_overwritten(files, tmp_path):
    for name in ("x", ".y.part", ".y.old", ".y.1.old") if files else ("x",):
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(text or "not ours")
    before = everything_in(tmp_path)
    for write in (storage.save, partial(export, config={})):
        with pytest.raises(Refused, match="ch4jax did not write it"):
            write(tmp_path / "x", jnp.ones(1))
        with pytest.raises(Damaged, match="cannot be read"):
            storage.load(tmp_path / "y")
        for _ in range(2):
            write(tmp_path / "y", jnp.ones(1))
        shutil.rmtree(tmp_path / "y")
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize("write", [storage.save, partial(export, config={})])
def test_a_file_that_was_put_into_a_saved_tree_is_not_removed(write, tmp_path):
    write(tmp_path / "x", W)
    (tmp_path / "x" / "notes.txt").write_text("years of work")
    with pytest.raises(Refused, match="did not write it, or not all of it"):
        write(tmp_path / "x", W)
    (tmp_path / "x").rename(tmp_path / "y")
    (tmp_path / "x").symlink_to(tmp_path / "y")
    with pytest.raises(Refused, match="did not write it, or not all of it"):
        write(tmp_path / "x", W)
    assert (tmp_path / "y" / "notes.txt").read_text() == "years of work"


USES = [
    *(storage.load, storage.Checkpoints, load_exported, load_torch),
    *(partial(storage.save, tree=1), partial(export, params=1, config={})),
    partial(save_torch, state_dict={}),
    lambda path: house_prices.read(str(path)),
    lambda path: house_prices.write_submission(path, [1], np.ones(1)),
]


@pytest.mark.parametrize("use", USES)
def test_a_path_that_is_not_local_is_an_error(use, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for url in ("gs://bucket/run", Path("s3://bucket/run"), "file:///tmp/x", ""):
        with pytest.raises(ValueError, match="must name a local file or folder, got"):
            use(url)
    with pytest.raises(ValueError, match=r"path '~no one/x' cannot be resolved"):
        use("~no one/x")
    assert not list(tmp_path.iterdir())


def test_a_tree_is_saved_in_the_home_that_a_tilde_means(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    storage.save("~/x", W)
    export(Path("~/exported"), W, {})
    storage.Checkpoints("~/run").save(1, W)
    names = {path.name for path in (tmp_path / "home").iterdir()}
    assert names == {"x", "exported", "run"}
    assert same([storage.load("~/x"), load_exported("~/exported")[0]], [W, W])


# Writers that fail, or died


def fill_disk(*_, **__):
    raise ValueError("No space left on device\nand a page of details")


def assert_only(value, folder):
    assert same(storage.load(folder / "x"), value)
    assert [entry.name for entry in folder.iterdir()] == ["x"]


@pytest.mark.parametrize("step", ["save", "finalize"])
def test_a_failed_save_leaves_the_old_tree_and_nothing_else(
    step, tmp_path, monkeypatch
):
    storage.save(tmp_path / "x", jnp.arange(3))
    monkeypatch.setattr(_trees._orbax()[0], step, fill_disk)
    with pytest.raises(OSError, match=r"x cannot be written: No space left on device$"):
        storage.save(tmp_path / "x", jnp.arange(9))
    assert_only(jnp.arange(3), tmp_path)


def test_an_error_of_ours_is_not_taken_for_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(_trees._orbax()[0], "save", None)
    with pytest.raises(TypeError, match="not callable"):
        storage.save(tmp_path / "x", jnp.arange(3))


@pytest.mark.parametrize("part", [False, True], ids=["alone", "beside the new one"])
def test_a_tree_whose_writer_died_between_its_two_renames_is_there(
    part, tmp_path, monkeypatch
):
    storage.save(tmp_path / "x", jnp.arange(3))
    if part:
        storage.save(tmp_path / "y", jnp.arange(5))
        (tmp_path / "y").rename(tmp_path / ".x.part")
    (tmp_path / "x").rename(tmp_path / ".x.old")
    assert same(storage.load(tmp_path / "x"), jnp.arange(3))
    with monkeypatch.context() as patched:
        patched.setattr(_trees._orbax()[0], "save", fill_disk)
        with pytest.raises(OSError, match="cannot be written"):
            storage.save(tmp_path / "x", jnp.arange(4))
    assert same(storage.load(tmp_path / "x"), jnp.arange(3))
    storage.save(tmp_path / "x", jnp.arange(4))
    assert_only(jnp.arange(4), tmp_path)


def test_an_error_between_the_two_renames_puts_the_old_tree_back(tmp_path, monkeypatch):
    storage.save(tmp_path / "x", jnp.arange(3))
    rename = os.rename

    def fail_once(source, target):
        if str(source).endswith(".part"):
            monkeypatch.undo()
            raise OSError("the disk is gone")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_once)
    with pytest.raises(OSError, match="the disk is gone"):
        storage.save(tmp_path / "x", jnp.arange(4))
    assert_only(jnp.arange(3), tmp_path)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_file_that_cannot_be_written_leaves_the_old_one(step, tmp_path, monkeypatch):
    (tmp_path / "x").write_text("old")
    full = OSError(errno.ENOSPC, "No space left on device")  # and names no file
    monkeypatch.setattr(os, step, Mock(side_effect=full))
    replaced = atomic.writing(tmp_path / "x")
    with pytest.raises(OSError, match=r"on device: '.*/x'$"), replaced as part:
        part.write_text("new")
    full.filename = None
    with pytest.raises(OSError, match=r"on device: '.*/\.?y"):
        storage.save(tmp_path / "y", W)
    assert (tmp_path / "x").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


# Mismatches


@pytest.mark.parametrize(
    ("saved", "like", "message"),
    [
        ({"w": W}, {"w": W.T}, "[0]['w']: float32[3,4] was saved, expected float32[4,"),
        (W, np.zeros((4, 3), "f4"), "float32[3,4] was saved, expected float32[4,3]"),
        (W, jax.ShapeDtypeStruct((3, 4), "f2"), "was saved, expected float16[3,4]"),
        ({"a": 1}, {"a": 1, "b": W}, "[0]['b']: is expected, but was not saved"),
        ({"a": 1, "b": W}, {"a": 1}, "[0]['b']: was saved, but is not expected"),
        (
            *({"a": 1}, {"b": 1}),
            "[0]['a']: was saved, but is not expected; "
            "[0]['b']: is expected, but was not saved",
        ),
        ({"a": W}, [W], "[0]: dict was saved, expected list"),
        ({"a": W}, W, "[0]: dict was saved, expected float32[3,4]"),
        ([1, 2], {0: 1, 1: 2}, "[0]: list was saved, expected dict"),
        ({0: 1}, [1], "[0]: dict was saved, expected list"),
        ({"a": {"b": 1}}, {"a.b": 1}, "[0]['a']: was saved, but is not expected"),
        (Pair(1, 2), (1, 2), "[0]: <Pair> was saved, expected tuple"),
        (None, 1, "[0]: None was saved, expected int"),
        (1, None, "[0]: int was saved, expected None"),
        (1, 1.0, "[0]: int was saved, expected float"),
        (1.0, jnp.ones(()), "[0]: float was saved, expected float32[]"),
        ([], (), "[0]: list was saved, expected tuple"),
        (jax.random.key(0), jax.random.key(0, impl="rbg"), "[0]: key<fry>[] was saved"),
        (jax.random.key(0), np.zeros(2, np.uint32), "[0]: key<fry>[] was saved"),
        (list(range(9)), ["x"] * 9, "expected str; and 4 more"),
    ],
)
def test_another_form_is_an_error_that_names_the_leaf(saved, like, message, tmp_path):
    storage.save(tmp_path / "x", [saved])
    with one_line(Mismatch, re.escape(message)):
        storage.load(tmp_path / "x", like=[like])


def test_float64_arrays_do_not_turn_into_float32(tmp_path):
    with jax.enable_x64(True):
        storage.save(tmp_path / "x", {"x": jnp.ones(2, jnp.float64)})
        assert storage.load(tmp_path / "x")["x"].dtype == jnp.float64
    with pytest.raises(Mismatch, match=r"\['x'\]: float64\[2\] needs jax_enable_x64"):
        storage.load(tmp_path / "x")
    loaded = storage.load(tmp_path / "x", like={"x": np.ones(2)})
    assert same(loaded, {"x": np.ones(2)})


# Damage


def files_of(folder):
    return sorted(file for file in folder.rglob("*") if file.is_file())


def test_no_flipped_bit_is_loaded_as_wrong_numbers(tmp_path):
    tree = some_tree()
    storage.save(tmp_path / "x", tree)
    rng = np.random.default_rng(0)
    caught = 0
    for file in itertools.islice(itertools.cycle(files_of(tmp_path / "x")), 504):
        content = file.read_bytes()
        position, bit = rng.integers(len(content)), rng.integers(8)
        flipped = bytearray(content)
        flipped[position] ^= 1 << bit
        file.write_bytes(flipped)
        with suppress(Damaged):
            caught += 1
            assert same(storage.load(tmp_path / "x"), tree)
            caught -= 1
        file.write_bytes(content)
    assert caught >= 490  # a space of the manifest's JSON may become another space
    assert same(storage.load(tmp_path / "x"), tree)


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "zeroed": lambda content: bytes(len(content)),
    "emptied": lambda content: b"",
    "another value": lambda content: b"[]",
}


@pytest.mark.parametrize("damage", [*DAMAGES, "deleted"])
def test_a_file_that_is_cut_short_zeroed_or_gone_is_named(damage, tmp_path):
    storage.save(tmp_path / "x", some_tree())
    for file in files_of(tmp_path / "x"):
        content = file.read_bytes()
        file.unlink()
        if damage != "deleted":
            file.write_bytes(DAMAGES[damage](content))
        with one_line(Damaged, file.name):
            storage.load(tmp_path / "x")
        file.write_bytes(content)


def test_each_leaf_is_compared_with_its_own_hash_as_well(tmp_path, monkeypatch):
    storage.save(tmp_path / "x", {"a": jnp.arange(4), "b": jnp.ones(2)})
    wrong = {"a": np.arange(4, dtype=np.int32), "b": -np.ones(2, np.float32)}
    monkeypatch.setattr(_trees._orbax()[0], "restore", lambda folder: wrong)
    with pytest.raises(Damaged, match=r"the leaf \['b'\] has the wrong SHA-256"):
        storage.load(tmp_path / "x")


def test_another_schema_is_an_error_that_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(_manifest, "SCHEMA", 3)
    storage.save(tmp_path / "x", 1)
    with pytest.raises(Mismatch, match=r"manifest.json has schema 3, expected 1 or 2"):
        storage.load(tmp_path / "x")


def test_the_manifest_holds_path_shape_dtype_hash_versions_and_devices(tmp_path):
    storage.save(tmp_path / "x", {"layer": {"kernel": jnp.ones((3, 4))}})
    manifest = json.loads((tmp_path / "x" / "manifest.json").read_text())
    assert manifest["schema"] == 2
    assert manifest["devices"] == 1
    assert {"jax", "orbax-checkpoint", "numpy"} <= set(manifest["versions"])
    (kernel,) = manifest["leaves"]
    assert kernel["path"] == "['layer']['kernel']"
    assert (kernel["dtype"], kernel["shape"]) == ("float32", [3, 4])
    assert kernel["sha256"] == hashlib.sha256(np.ones(12, "f4").tobytes()).hexdigest()


# Round trips of random trees


@st.composite
def arrays(draw):
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=4)))
    size = int(np.prod(shape)) * dtype.itemsize
    content = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8)
    array = content.view(dtype).reshape(shape)
    kind = draw(st.sampled_from(["numpy", "scalar", "jax", "fortran", "big-endian"]))
    if kind == "scalar" and shape == ():
        return array[()]
    if kind == "jax" and dtype.name in ("float32", "bfloat16", "int32", "uint8"):
        return jnp.asarray(array)
    if kind == "fortran":
        return np.asfortranarray(array)
    return array.astype(">i4") if kind == "big-endian" and dtype == "int32" else array


# Made here: Hypothesis refuses a strategy that makes keys itself.
KEYS = [
    jax.random.split(jax.random.key(seed, impl=impl), shape)
    for seed, shape in enumerate([(), 0, 2, (2, 1), (1, 0)])
    for impl in ("threefry2x32", "rbg")
]
NAMES = st.text(st.characters(), max_size=3) | st.sampled_from(
    ["a", "a.b", "a/b", "", "1", "\ud83d\ude00", "\ud800", "__metadata__"]
)
LEAVES = (
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers()),
    *(NAMES, arrays(), arrays(), arrays(), st.sampled_from(KEYS)),
    *(st.floats(width=32).map(jnp.asarray), st.integers(-9, 9).map(jnp.asarray)),
    st.sampled_from([b"", object(), np.datetime64(0, "s")]),
)
RANDOM_TREES = st.recursive(
    st.one_of(*LEAVES),
    lambda trees: st.one_of(
        st.lists(trees, max_size=3),
        st.lists(trees, max_size=3).map(tuple),
        st.dictionaries(NAMES | st.integers(-1, 1), trees, max_size=3),
        *(st.builds(node, trees, trees) for node in (Pair, Record, Nameless)),
        *(
            st.dictionaries(NAMES | st.integers(-1, 1), trees, max_size=2).map(mapping)
            for mapping in (OrderedDict, partial(defaultdict, list))
        ),
        st.dictionaries(NAMES, st.integers(), max_size=1).map(Counter).map(ChainMap),
    ),
    max_leaves=8,
)


SETTINGS = {"deadline": None, "derandomize": True, "database": None}
SETTINGS |= {"suppress_health_check": list(HealthCheck)}


@pytest.mark.parametrize(
    "examples", [30, pytest.param(500, marks=pytest.mark.long)], ids=str
)
def test_random_trees_come_back_exactly_or_are_refused(examples, tmp_path):
    @settings(max_examples=examples, **SETTINGS)
    @given(tree=RANDOM_TREES)
    def comes_back_or_is_refused(tree):
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        try:
            storage.save(folder / "x", tree)
        except Refused:
            assert not list(folder.iterdir())
            return
        manifest = (folder / "x" / "manifest.json").read_text()
        leaves = json.loads(manifest)["leaves"]
        held = [leaf for leaf in leaves if "tensor" in leaf and 0 not in leaf["shape"]]
        if held:
            read = StandardCheckpointer().restore(folder / "x" / "arrays")
            hashes = [
                hashlib.sha256(array.tobytes()).hexdigest()
                for array in jax.tree.leaves(read)
            ]
            assert sorted(hashes) == sorted(leaf["sha256"] for leaf in held)
        like = ... if tree is None else tree
        assert same(storage.load(folder / "x", like=like), tree)
        if '"type": "<' in manifest:
            with pytest.raises(Mismatch, match="which needs an example"):
                storage.load(folder / "x")
        else:
            assert same(storage.load(folder / "x"), tree)

    comes_back_or_is_refused()
