"""Parameters by path: what is found, what is replaced, and what stays as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

from ch4jax import parameters
from ch4jax.parameters import RGNet, SharedMLP
from experiments.parameters import shared_networks, untied


@pytest.fixture(scope="module")
def tree():
    """Return the variables of the perceptron 4-8-1."""
    network = nn.Sequential((nn.Dense(8), nn.relu, nn.Dense(1)))
    return jax.jit(network.init)(jax.random.key(0), jnp.ones((1, 4)))


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
    half = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.bfloat16), tree)
    assert parameters.num_bytes(half) == 98


def test_the_outline_has_a_line_for_each_module_indented_by_its_depth():
    dense = {"kernel": jnp.ones((5, 3)), "bias": jnp.ones(3)}
    tree = {"gain": jnp.ones(2), "block0": {"Dense_0": dense}, "Dense_0": dense}
    assert parameters.outline(tree, "Net") == (
        "Net: gain (2,)\n"
        "  block0\n"
        "    Dense_0: kernel (5, 3), bias (3,)\n"
        "  Dense_0: kernel (5, 3), bias (3,)"
    )


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


def test_the_layout_has_the_sizes_of_each_array_that_a_layer_takes_or_returns():
    text = parameters.layout(nn.RNN(nn.LSTMCell(3)), jnp.ones((2, 5, 4)))
    assert text.startswith("RNN(\n  (cell): LSTMCell(\n    (ii): Dense(4 -> 3)")

    class Pair(nn.Module):
        layers: int = 2

        def __call__(self, inputs):
            return inputs["a"], inputs["b"]

    given = {"a": jnp.ones((2, 4)), "b": jnp.float32(1)}
    assert parameters.layout(Pair(), given) == "Pair(4, a number -> 4, a number)"


def test_paths_reach_into_lists_and_tuples_as_well():
    params = [{"kernel": jnp.ones((2, 3))}, (jnp.zeros(4),)]
    assert list(parameters.flatten(params)) == ["0/kernel", "1/0"]
    changed = parameters.replace(params, "1/0", jnp.ones(4))
    assert jax.tree.structure(changed) == jax.tree.structure(params)
    np.testing.assert_array_equal(parameters.get(changed, "1/0"), 1)


def test_a_tree_that_is_one_array_or_holds_numbers_is_a_tree():
    one = jnp.ones((2, 3))
    assert parameters.count(one) == 6
    np.testing.assert_array_equal(parameters.replace(one, "", one + 1), 2)
    assert parameters.count({"a": one, "step": 3.0}) == 7
    assert parameters.replace({"step": 3.0}, "step", 4.0) == {"step": 4.0}
    wide = {"a": np.ones(2)}  # in float64, which JAX would narrow
    replaced = parameters.replace(wide, "a", np.full(2, 1 / 3))
    assert replaced["a"][0] == 1 / 3


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


def test_rules_draw_what_they_match_first_and_leave_the_rest(tree):
    ones = jax.tree.map(jnp.ones_like, tree)
    rules = {
        FIRST: nn.initializers.xavier_uniform(),
        "*/layers_0/*": nn.initializers.constant(42),
    }
    drawn = parameters.reinitialize(ones, rules, key=jax.random.key(0))
    first = np.asarray(parameters.get(drawn, FIRST))
    bound = np.sqrt(6 / (4 + 8))
    assert 0.8 * bound < np.abs(first).max() <= bound
    np.testing.assert_array_equal(parameters.get(drawn, "params/layers_0/bias"), 42)
    for path in ("params/layers_2/bias", "params/layers_2/kernel"):
        assert parameters.get(drawn, path) is parameters.get(ones, path)


def test_what_a_leaf_becomes_depends_on_its_path_and_key_alone():
    rules = {"*": nn.initializers.normal(1.0)}
    both = {"a": jnp.zeros((3, 4), jnp.bfloat16), "b": jnp.zeros((3, 4))}
    key = jax.random.key(0)
    drawn = parameters.reinitialize(both, rules, key=key)
    alone = parameters.reinitialize({"b": both["b"]}, rules, key=key)
    other = parameters.reinitialize(both, rules, key=jax.random.key(1))
    np.testing.assert_array_equal(drawn["b"], alone["b"])
    assert (drawn["a"] != drawn["b"]).all()
    assert (drawn["a"] != other["a"]).all()
    assert drawn["a"].dtype == jnp.bfloat16


def test_only_the_star_of_a_pattern_is_special():
    tree = {name: jnp.ones(1) for name in ("w1", "w[1]", "w?")}
    rules = {"w[1]": nn.initializers.zeros, "w?": nn.initializers.zeros}
    drawn = parameters.reinitialize(tree, rules, key=jax.random.key(0))
    assert drawn == {"w1": 1, "w[1]": 0, "w?": 0}


@pytest.fixture
def shared(x64):
    """Return parameters of `SharedMLP` in float64 that let every unit speak."""
    x = jax.random.uniform(jax.random.key(1), (16, 4), jnp.float64)
    shapes = jax.eval_shape(SharedMLP().init, jax.random.key(0), x)["params"]
    params = parameters.reinitialize(
        shapes, {"*": nn.initializers.uniform(1.0)}, key=jax.random.key(2)
    )
    return jax.tree.map(lambda a: (a - 0.3).astype(jnp.float64), params), x


@pytest.mark.parametrize("way", shared_networks())
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


@pytest.mark.parametrize("wrap", [jax.jit, lambda update: update])
def test_frozen_parameters_keep_every_bit_while_the_others_move(wrap):
    frozen = jnp.array([-0.0, 1 / 3])  # -0.0 + 0.0 would be 0.0
    start = after = {"frozen": {"w": frozen}, "w": frozen, "trained": frozen + 1}
    with_l2 = optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.01))
    optimizer = parameters.freeze(with_l2, start, ["frozen/*", "w"])
    state = optimizer.init(start)

    @wrap
    def update(params, state):
        updates, state = optimizer.update(start, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(3):
        after, state = update(after, state)
    for path in ("frozen/w", "w"):
        kept = np.asarray(parameters.get(after, path))
        assert kept.tobytes() == np.asarray(frozen).tobytes()
    assert (after["trained"] != start["trained"]).all()


def test_optimiser_states_are_kept_for_what_is_trained_alone(tree):
    state = parameters.freeze(optax.adam(0.1), tree, ["*/layers_0/*"]).init(tree)
    entries = sum(leaf.size for leaf in jax.tree.leaves(state))
    assert entries == 2 * (8 + 1) + 1  # two moments each, and the count of steps
