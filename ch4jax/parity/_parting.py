"""Where two modules part: the first layer or operation, and what may be the cause."""

import copy
from collections.abc import Mapping

import jax.numpy as jnp

from ch4jax import interop
from ch4jax.parity import _causes, _layers
from ch4jax.parity._causes import Change, Operation
from ch4jax.parity._flax import Calls
from ch4jax.parity._layers import Place
from ch4jax.parity._masks import recorded
from ch4jax.parity._setting import ALLOWED, Setting, arrays, forward


def parting(
    s: Setting, gradients: Mapping[str, float], *, train: bool = True
) -> tuple[list[Place], str, list[str]]:
    """Find where the two modules part, and what may be the cause."""
    with recorded() as masks, s.side.watched() as ours:
        outputs, _ = s.side.apply(
            s.params, s.state, arrays(s.inputs), train=train, key=s.key
        )
    if not ours:
        return [], "", []
    loss = s.losses[0](outputs, jnp.asarray(s.labels))
    ours.append((_layers.LOSS, "out of", loss, None))

    def theirs(changes: Mapping[int, Change]) -> tuple[Calls, list[Operation]]:
        module = copy.deepcopy(s.module).train(train)
        with _layers.watched(module, changes) as (calls, operations):
            _, _, loss = forward(s, module, s.inputs, s.labels, masks)
        value = _layers.first_array(loss)
        return [*calls, (_layers.LOSS, "out of", value, None)], operations

    calls, operations = theirs({})
    names = interop.layer_pairs(s.module, s.side.variables, names=s.options["names"])
    pairs = _layers.pairs_of(names, s.module)
    flattened = s.options["flattened"] or {}
    places = _layers.places(ours, calls, pairs, flattened)
    allowed = ALLOWED["float64"]
    equal = {p.path for p in places if p.when == "out of" and p.difference <= allowed}
    notes = _layers.settings(ours, calls, pairs, equal) + _layers.tied(s.module, names)
    if masks and not train:
        notes.append(f"Flax drops in evaluation too, {len(masks)} times")
    wrong = [n for n, p in enumerate(places) if not p.difference <= allowed]
    if not wrong:
        first = _layers.first_gradient(places, pairs, gradients)
        if first and any(o.name == "detach" for o in operations):
            notes.append("PyTorch runs detach, which no gradient passes")
        return places, first, notes

    def agrees(changes: Mapping[int, Change]) -> bool:
        now = _layers.places(ours, theirs(changes)[0], pairs, flattened)[: n + 1]
        return len(now) == n + 1 and all(
            a.path == b.path and a.difference <= allowed
            for a, b in zip(now, places, strict=False)
        )

    n = wrong[0]
    start = places[n - 1].at + 1 if n else 0
    before = {i: o for i, o in enumerate(operations) if o.after <= places[n].at}
    near = {i: o for i, o in before.items() if start <= o.after}
    causes = _causes.tried(near, agrees)
    if not causes:
        causes = _causes.tried({i: before[i] for i in before.keys() - near}, agrees)
    causes += _layers.values_notes(places[n], calls)
    notes = notes + causes + _layers.order_notes(ours, calls, pairs)
    runs = _causes.shown([*near.values()])
    first = _layers.first_part(places, n, calls, runs)
    return places, first if train else f"in evaluation, {first}", notes
