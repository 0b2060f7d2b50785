"""Where two modules part: the first layer or operation, and what may be the cause."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax.tree_util import tree_leaves_with_path
from jaxtyping import PyTree

from ch4jax import interop
from ch4jax.parity import _causes, _layers
from ch4jax.parity._causes import Change, Operation
from ch4jax.parity._flax import Calls, Plain, accepted
from ch4jax.parity._layers import Place
from ch4jax.parity._masks import recorded, replayed_in_jax
from ch4jax.parity._report import path_of
from ch4jax.parity._setting import ALLOWED, Setting, arrays, forward

_GRADIENTS = {  # operations whose gradient is not that of their values
    "detach": "PyTorch runs detach, which no gradient passes",
    "hardsigmoid": "PyTorch's gradient of hardsigmoid has 1/6 in float32 (3e-8 apart)",
}


def parting(
    s: Setting, gradients: Mapping[str, float], *, train: bool = True
) -> tuple[list[Place], str, list[str]]:
    """Find where the two modules part, and what may be the cause."""
    with recorded() as masks, s.side.watched() as ours:
        outputs, _ = s.side.apply(
            s.params, s.state, arrays(s.inputs), train=train, key=s.key
        )
    given = accepted(s.losses[0], params=s.params)
    loss = s.losses[0](outputs, jnp.asarray(s.labels), **given)
    ours.append((_layers.LOSS, "out of", loss, None))
    plain, values = isinstance(s.side, Plain), {}

    def function(params: PyTree, inputs: Sequence[Any]) -> PyTree:
        with replayed_in_jax([jnp.asarray(mask.kept) for mask in masks]):
            return s.side.apply(params, s.state, inputs, train=train, key=s.key)[0]

    if plain:
        values = _layers.values_of(function, s.params, arrays(s.inputs))
        ours.insert(0, ((), "out of", outputs, None))

    def theirs(changes: Mapping[int, Change]) -> tuple[Calls, list[Operation]]:
        module = copy.deepcopy(s.module).train(train)
        with _layers.watched(module, changes) as (calls, operations):
            _, _, loss = forward(s, module, s.inputs, s.labels, masks)
        value = _layers.first_array(loss)
        return [*calls, (_layers.LOSS, "out of", value, None)], operations

    calls, operations = theirs({})
    names = interop.layer_pairs(s.module, s.side.variables, names=s.options["names"])
    bare = {path_of(keys) for keys, _ in tree_leaves_with_path(s.params)}
    layers = {name: path for name, path in names.items() if path not in bare}
    pairs = _layers.pairs_of(layers, s.module)

    def compared(calls: Calls) -> list[Place]:
        flattened = s.options["flattened"] or {}
        if not plain:
            return _layers.places(ours, calls, pairs, flattened)
        # A function has no layers: of its values the nearest is the counterpart.
        near = [
            (path, when, _layers.nearest(values, b), None)
            for path, when, b, _ in calls[:-2]
        ]
        paths = {path: path for path, *_ in calls}
        return _layers.places([*near, *ours], calls, paths, flattened)

    places = compared(calls)
    allowed = ALLOWED["float64"]
    equal = {p.path for p in places if p.when == "out of" and p.difference <= allowed}
    notes = _layers.settings(ours, calls, pairs, equal) + _layers.tied(s.module, names)
    if masks and not train:
        notes.append(f"Flax drops in evaluation too, {len(masks)} times")
    unequal = [n for n, p in enumerate(places) if not p.difference <= allowed]
    # If Flax pads in a layer, and PyTorch before it, only what goes in is unequal.
    wrong = [n for n in unequal if not _equal_after(places[n:], allowed)]
    ignored = {places[n].at for n in unequal if n not in wrong}
    if not wrong:
        first = _layers.first_gradient(places, pairs, gradients)
        if first:
            run = {operation.name for operation in operations}
            notes += [words for name, words in _GRADIENTS.items() if name in run]
            notes += _layers.without_gradient(s.module)
        return places, first, notes

    def agrees(changes: Mapping[int, Change]) -> bool:
        now = compared(theirs(changes)[0])
        last = {p.at: p.difference for p in now if plain or p.at <= places[n].at}
        return places[n].at in last and all(
            last[at] <= allowed for at in last if at not in ignored
        )

    n = wrong[0]
    start = places[n - 1].at + 1 if n else 0
    before = {i: o for i, o in enumerate(operations) if o.after <= places[n].at}
    near = {i: o for i, o in before.items() if start <= o.after}
    runs = _causes.shown([*near.values()])
    if plain:  # of which all has to agree, what other layers run too
        before = dict(enumerate(operations))
        names = {o.name for o in near.values()}
        near = {i: o for i, o in before.items() if o.name in names}
    causes = _causes.tried(near, agrees) or _causes.tried(before, agrees)
    # Where a cause is known, another order is mostly that of the terms of a sum.
    causes = causes or _layers.order_notes(ours, calls, pairs, equal)
    causes += _layers.narrowed(function, s.params, arrays(s.inputs))
    causes += _causes.narrowed(operations)
    notes = notes + causes + _layers.values_notes(places[n], calls)
    first = _layers.first_part(places, n, calls, runs)
    return places, first if train else f"in evaluation, {first}", notes


def _equal_after(places: Sequence[Place], allowed: float) -> bool:
    """Whether the first place is what goes into a layer whose output is equal."""
    first, *others = places
    later = (p for p in others if p.path == first.path and p.when == "out of")
    after = next(later, None)
    return first.when == "into" and after is not None and after.difference <= allowed
