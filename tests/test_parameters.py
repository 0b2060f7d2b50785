"""Parameters by path: what is found, what is replaced, and what stays as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

from ch4jax import parameters, training
from ch4jax.parameters import RGNet, SharedMLP
from experiments.parameters import shared_networks, untied


@pytest.fixture(scope="module")
def tree():
    """Return the variables of the perceptron 4-8-1."""
    network = nn.Sequential((nn.Dense(8), nn.relu, nn.Dense(1)))
    return jax.jit(network.init)(jax.random.key(0), jnp.ones((1, 4)))


@pytest.fixture(scope="module")
def nested():
    """Return the shapes of the parameters of four blocks, with nothing drawn."""
    x = jnp.ones((2, 4))
    return jax.eval_shape(RGNet().init, jax.random.key(0), x)["params"]


FIRST, LAST = "params/layers_0/kernel", "params/layers_2/kernel"


def test_the_summary_has_path_shape_dtype_entries_and_bytes_of_each(tree):
    assert parameters.summary(tree) == [
        ("params/layers_0/bias", (8,), "float32", 8, 32),
        ("params/layers_0/kernel", (4, 8), "float32", 32, 128),
        ("params/layers_2/bias", (1,), "float32", 1, 4),
        ("params/layers_2/kernel", (8, 1), "float32", 8, 32),
    ]
    assert parameters.count(tree) == 49
    assert parameters.num_bytes(tree) == 196
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), tree)
    assert parameters.num_bytes(half) == 98


def test_shapes_alone_are_enough_to_count_four_nested_blocks(nested):
    assert parameters.count(nested) == 4 * (4 * 8 + 8 + 8 * 4 + 4) + 4 + 1
    assert len(parameters.summary(nested)) == 4 * 4 + 2
    assert parameters.get(nested, "block3/Dense_1/kernel").shape == (8, 4)


def test_the_outline_has_a_line_for_each_module_indented_by_its_depth(nested):
    lines = parameters.outline(nested, "RGNet").splitlines()
    depths = {}
    for line in lines:
        name = line.strip().partition(":")[0]
        depths.setdefault((len(line) - len(line.lstrip())) // 2, []).append(name)
    blocks = [f"block{i}" for i in range(4)]
    assert depths == {
        0: ["RGNet"],
        1: ["Dense_0", *blocks],
        2: ["Dense_0", "Dense_1"] * 4,
    }
    assert "    Dense_1: bias (4,), kernel (8, 4)" in lines


def test_a_leaf_at_the_root_stands_in_the_first_line_of_the_outline():
    tree = {"weight": jnp.ones((5, 3)), "bias": jnp.ones(3)}
    assert parameters.outline(tree, "MyLinear") == "MyLinear: weight (5, 3), bias (3,)"


def test_leaves_keep_the_order_in_which_the_layers_compute():
    network = nn.Sequential([nn.Dense(1) for _ in range(11)])
    variables = network.init(jax.random.key(0), jnp.ones((1, 1)))
    paths = [
        f"params/layers_{i}/{leaf}" for i in range(11) for leaf in ("kernel", "bias")
    ]
    assert list(parameters.flatten(variables)) == paths
    changed = parameters.replace(variables, paths[3], jnp.ones(1))
    assert list(parameters.flatten(changed)) == paths


class Native(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(4, 8, rngs=rngs)
        self.head = nnx.Sequential(nnx.relu, nnx.Linear(8, 3, rngs=rngs))


def test_the_layout_nests_layers_in_order_with_sizes_and_listed_functions():
    block = "(Dense_0): Dense(4 -> 8)\n    (Dense_1): Dense(8 -> 4)"
    blocks = [f"  (block{i}): Block(\n    {block}\n  )" for i in range(4)]
    expected = ["RGNet(", *blocks, "  (Dense_0): Dense(4 -> 1)", ")"]
    assert parameters.layout(RGNet(), jnp.ones((2, 4))) == "\n".join(expected)
    assert parameters.layout(Native(nnx.Rngs(0))) == (
        "Native(\n  (hidden): Linear(4 -> 8)\n  (head): Sequential(\n"
        "    (layers_0): relu\n    (layers_1): Linear(8 -> 3)\n  )\n)"
    )


def test_paths_reach_into_lists_and_tuples_as_well():
    params = [{"kernel": jnp.ones((2, 3))}, (jnp.zeros(4),)]
    assert list(parameters.flatten(params)) == ["0/kernel", "1/0"]
    changed = parameters.replace(params, "1/0", jnp.ones(4))
    assert jax.tree.structure(changed) == jax.tree.structure(params)
    np.testing.assert_array_equal(parameters.get(changed, "1/0"), 1)


def test_two_leaves_with_one_path_are_refused():
    tree = {"a/b": jnp.ones(1), "a": {"b": jnp.zeros(1)}}
    with pytest.raises(ValueError, match="two leaves have the path a/b"):
        parameters.flatten(tree)


def test_an_unknown_path_names_the_closest_ones(tree):
    with pytest.raises(
        KeyError, match="layers_2/kernal; closest: params/layers_2/kernel"
    ):
        parameters.get(tree, "params/layers_2/kernal")
    with pytest.raises(KeyError, match="closest: params/layers_0/bias"):
        parameters.replace(tree, "layers_0/bias", jnp.zeros(8))
    with pytest.raises(KeyError, match=r"no parameter .*; closest: '$"):
        parameters.get({}, "params/layers_0/bias")


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((8, 4), np.float32),
        np.zeros((4, 8), np.float64),
        jnp.zeros((4, 8), int),
    ],
)
def test_a_wrong_shape_or_dtype_is_refused_by_path_shapes_and_dtypes(tree, value):
    with pytest.raises(ValueError, match=FIRST) as caught:
        parameters.replace(tree, FIRST, value)
    message = str(caught.value)
    assert "shape (4, 8) and dtype float32" in message
    assert f"got shape {value.shape} and dtype {value.dtype}" in message


def test_replacing_makes_a_new_tree_that_shares_all_else_with_the_old(tree):
    before = jax.tree.map(np.array, tree)
    old = parameters.get(tree, FIRST)
    new = parameters.replace(tree, FIRST, (old + 1).at[0, 0].set(42))
    jax.tree.map(np.testing.assert_array_equal, tree, before)
    kernel = np.array(before["params"]["layers_0"]["kernel"]) + 1
    kernel[0, 0] = 42
    np.testing.assert_array_equal(parameters.get(new, FIRST), kernel)
    for path, leaf in parameters.flatten(new).items():
        assert (leaf is parameters.get(tree, path)) == (path != FIRST)


def test_rules_draw_what_they_match_and_leave_the_rest(tree):
    ones = jax.tree.map(jnp.ones_like, tree)
    rules = {
        FIRST: nn.initializers.xavier_uniform(),
        LAST: nn.initializers.constant(42),
    }
    drawn = parameters.reinitialize(ones, rules, key=jax.random.key(0))
    first = np.asarray(parameters.get(drawn, FIRST))
    bound = np.sqrt(6 / (4 + 8))
    assert 0.8 * bound < np.abs(first).max() <= bound
    np.testing.assert_array_equal(parameters.get(drawn, LAST), 42)
    for path in ("params/layers_0/bias", "params/layers_2/bias"):
        assert parameters.get(drawn, path) is parameters.get(ones, path)


def test_all_kernels_normal_and_all_biases_zero():
    tree = {"params": {"a": {"kernel": jnp.ones((100, 100)), "bias": jnp.ones(100)}}}
    rules = {"*/kernel": nn.initializers.normal(0.01), "*": nn.initializers.zeros}
    drawn = parameters.reinitialize(tree, rules, key=jax.random.key(0))["params"]["a"]
    kernel = np.asarray(drawn["kernel"]).ravel()
    n = kernel.size
    assert abs(kernel.mean()) <= 5 * 0.01 / np.sqrt(n)
    assert abs(kernel.std() / 0.01 - 1) <= 5 / np.sqrt(2 * n)
    np.testing.assert_array_equal(drawn["bias"], 0)  # though */kernel comes first


def test_what_a_leaf_becomes_depends_on_its_path_and_key_alone():
    rules = {"*": nn.initializers.normal(1.0)}
    both = {"a": jnp.zeros((3, 4)), "b": jnp.zeros((3, 4))}
    key = jax.random.key(0)
    drawn = parameters.reinitialize(both, rules, key=key)
    alone = parameters.reinitialize({"b": both["b"]}, rules, key=key)
    other = parameters.reinitialize(both, rules, key=jax.random.key(1))
    np.testing.assert_array_equal(drawn["b"], alone["b"])
    assert (drawn["a"] != drawn["b"]).all()
    assert (drawn["a"] != other["a"]).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_what_is_drawn_keeps_its_dtype(dtype):
    rules = {"*": nn.initializers.normal(1.0)}
    drawn = parameters.reinitialize(
        {"a": jnp.zeros(3, dtype)}, rules, key=jax.random.key(0)
    )
    assert drawn["a"].dtype == dtype


def test_a_pattern_that_matches_nothing_is_refused(tree):
    zeros = nn.initializers.zeros
    with pytest.raises(
        ValueError, match="layers_1/kernel matches no parameter; closest"
    ):
        parameters.reinitialize(
            tree, {"params/layers_1/kernel": zeros}, key=jax.random.key(0)
        )
    with pytest.raises(ValueError, match=r"Dense_0/\* matches no parameter; closest"):
        parameters.freeze(optax.sgd(0.1), tree, ["params/Dense_0/*"])


def shared_shapes():
    x = jnp.ones((1, 4))
    return jax.eval_shape(SharedMLP().init, jax.random.key(0), x)["params"]


@pytest.fixture
def shared(x64):
    """Return parameters of `SharedMLP` in float64 that let every unit speak."""
    x = jax.random.uniform(jax.random.key(1), (16, 4), jnp.float64)
    params = parameters.reinitialize(
        shared_shapes(), {"*": nn.initializers.uniform(1.0)}, key=jax.random.key(2)
    )
    return jax.tree.map(lambda a: (a - 0.3).astype(jnp.float64), params), x


three_ways = pytest.mark.parametrize("way", shared_networks())


def test_a_shared_layer_is_one_array_in_the_tree(shared):
    params, _ = shared
    assert set(params) == {"hidden", "shared", "out"}
    _, copies = untied(params)
    assert parameters.count(copies) - parameters.count(params) == 8 * 8 + 8


def test_a_layer_listed_twice_in_sequential_is_one_array_in_the_tree():
    layer = nn.Dense(8)
    network = nn.Sequential((nn.Dense(8), nn.relu, layer, nn.relu, layer))
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.ones((1, 4)))
    assert list(shapes["params"]) == ["layers_0", "layers_2"]


@three_ways
def test_a_change_of_a_shared_layer_is_a_change_of_both_uses(shared, way):
    params, x = shared
    kernel = params["shared"]["kernel"]
    changed = parameters.replace(params, "shared/kernel", kernel.at[0, 0].set(100))
    network, copies = untied(changed)
    y = shared_networks()[way](changed, x)
    np.testing.assert_allclose(y, network.apply(copies, x), rtol=1e-12)
    one_use = parameters.replace(copies, "params/layers_2/kernel", kernel)
    assert (network.apply(one_use, x) != y).any()


@three_ways
def test_the_gradient_of_a_shared_layer_is_the_sum_over_its_uses(shared, way):
    params, x = shared
    weights = jnp.linspace(-1.0, 2.0, len(x))[:, None]
    network, copies = untied(params)

    def loss(f):
        return lambda v: (weights * f(v, x)).sum()

    ours = jax.grad(loss(shared_networks()[way]))(params)["shared"]
    of_copies = jax.grad(loss(network.apply))(copies)["params"]
    for name in ("kernel", "bias"):
        first, second = (of_copies[f"layers_{i}"][name] for i in (2, 4))
        expected = first + second
        assert min(np.linalg.norm(first), np.linalg.norm(second)) > 0
        difference = np.linalg.norm(ours[name] - expected)
        assert difference <= 1e-12 * np.linalg.norm(expected)


OPTIMIZERS = {
    "sgd with momentum": optax.sgd(0.01, momentum=0.9),
    "adam with l2": optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.01)),
}


def train(params, optimizer, steps=100):
    """Return the parameters after some steps of SharedMLP towards the sum of a row."""
    x = jax.random.normal(jax.random.key(1), (32, 4))
    batch = training.Batch(x, x.sum(axis=1), jnp.ones(len(x), bool))

    def metrics(params, x, target, *, key):
        return {"loss": (SharedMLP().apply({"params": params}, x)[:, 0] - target) ** 2}

    def step(state, _):
        return training.train_step(
            state,
            batch,
            metrics_fn=metrics,
            optimizer=optimizer,
            key=jax.random.key(0),
        )

    state = training.init_state(params, optimizer)
    return jax.jit(lambda s: jax.lax.scan(step, s, length=steps))(state)[0].params


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_parameters_keep_every_bit_while_the_others_move(name):
    params = jax.tree.map(
        lambda a: jnp.asarray(np.random.default_rng(a.size).normal(size=a.shape) / 3),
        shared_shapes(),
    )
    kernel = params["shared"]["kernel"].at[0].set(-0.0)  # -0.0 + 0.0 would be 0.0
    params = parameters.replace(params, "shared/kernel", kernel)
    frozen = ["shared/*", "out/bias"]
    optimizer = parameters.freeze(OPTIMIZERS[name], params, frozen)
    after = parameters.flatten(train(params, optimizer))
    moved = {"hidden/kernel", "hidden/bias", "out/kernel"}
    for path, leaf in parameters.flatten(params).items():
        same = np.asarray(after[path]).tobytes() == np.asarray(leaf).tobytes()
        assert same == (path not in moved), path


def test_optimiser_states_are_kept_for_what_is_trained_alone():
    params = jax.tree.map(lambda a: jnp.ones(a.shape), shared_shapes())
    state = parameters.freeze(optax.adam(0.1), params, ["shared/*"]).init(params)
    entries = sum(leaf.size for leaf in jax.tree.leaves(state))
    trained = parameters.count(params) - (8 * 8 + 8)
    assert entries == 2 * trained + 1  # two moments each, and the count of steps


def test_a_frozen_minus_zero_stays_one():
    """Outside jit, too, where nobody leaves out an addition of zero."""
    params = {"frozen": jnp.full(3, -0.0), "trained": jnp.ones(3)}
    optimizer = parameters.freeze(optax.sgd(0.1), params, ["frozen"])
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    after = optax.apply_updates(params, updates)
    assert np.signbit(after["frozen"]).all()
    assert (after["trained"] != params["trained"]).all()
