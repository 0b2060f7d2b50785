"""Pair each layer of PyTorch with one of ours: by structure and shapes, then by names.

Both sides are trees of layers. Children that hold layers of the same shapes are
counterparts; where several do, names decide, or the positions in two lists (`blocks.0`
and `Block_0`, `0` and `Dense_0`). What is still open is never guessed: the error prints
a mapping to confirm. A level with one child, such as `module.`, does not count.
"""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from difflib import get_close_matches
from os.path import commonprefix
from typing import NamedTuple

from ch4jax.errors import Mismatch
from ch4jax.interop._layers import (
    ATTENTION,
    Form,
    Keys,
    Shape,
    canonical,
    forms_of,
    plain,
    signature,
)

MOST_LINES = 6
MOST_COMPARED = 100  # names, of which the closest is shown
COUNTER = "num_batches_tracked"
_OUTER = {"module", "model"}  # before all names
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_Index = dict[tuple[str, Shape], list[Keys]]
Paths = dict[Keys, Keys]  # of layers: where they are below a node, and below the root


class Layer(NamedTuple):
    """A layer of PyTorch.

    Attributes:
      start: what its tensors' names start with, for messages and `names`.
      tensors: their names, by what they are in the layer; several if it is shared.
      shapes: theirs.
      kind: `Conv`, `ConvTranspose` or `Embedding`, if it is known to be one.
      pin: where `names` has it.
    """

    start: Keys
    tensors: dict[str, list[str]]
    shapes: dict[str, Shape]
    kind: str
    pin: Keys


class Tree(NamedTuple):
    """Our side.

    Attributes:
      shapes: of the leaves, by path without the collection.
      labels: their paths, for messages.
      kinds: see `forms_of`.
      collections: the keys that may precede a path in `names`.
    """

    shapes: dict[Keys, Shape]
    labels: dict[Keys, str]
    kinds: dict[Keys, tuple[str, bool | None]]
    collections: set[str]


def pair(
    shapes: Mapping[str, Shape],
    tree: Tree,
    names: Mapping[str, str],
    kinds: Mapping[str, str],
) -> list[tuple[Layer, Form]]:
    """Return each layer of PyTorch with the form of its counterpart.

    Args:
      shapes: of the tensors, by name.
      tree: our side.
      names: see `from_torch`.
      kinds: of PyTorch's layers, by name, where they are known.

    Raises:
      Mismatch: a line for each tensor and each leaf without a counterpart, up to a
        few; or a mapping to confirm, if several layers fit.
    """
    places = _places_of(shapes, tree, names)
    theirs = _layers(shapes, places, kinds)
    signs = {path: signature(t.shapes, t.kind) for path, t in theirs.items()}
    ours = forms_of(tree.shapes, signs, tree.kinds)
    pinned = {place.pin for place in places.values() if place.pin}
    # What `names` has is the counterpart of nothing else.
    pins = {pin: pin if pin in ours else canonical(pin)[0] for pin in pinned}
    by_length = sorted(pins.values(), key=len, reverse=True)
    sides = (
        {t.start: (signs[path], pins.get(t.pin, ())) for path, t in theirs.items()},
        {
            path: (signed, next((pin for pin in by_length if _starts(path, pin)), ()))
            for path, (_, signed) in ours.items()
        },
    )
    search = _Search(*sides)
    search.match(*({path: path for path in side} for side in sides))
    if search.open or len(search.pairs) < len(theirs):  # each by itself
        alone = _Search(*sides)
        for pin in {pin for side in sides for _, pin in side.values()}:
            alone.match(*({p: p for p in s if s[p][1] == pin} for s in sides))
        if len(alone.pairs) == len(theirs) and not alone.open:
            search = alone
    done = [{pair[side] for pair in search.pairs} for side in range(2)]
    lonely = {path: t for path, t in theirs.items() if t.start not in done[0]}
    empty = {path: form for path, (form, _) in ours.items() if path not in done[1]}
    if lonely or empty:
        raise Mismatch(_lines(lonely, empty, tree, names))
    if search.open:
        first, *_ = search.open.items()
        raise Mismatch(
            f"{first[0]} fits {first[1]}, and so do others of equal shapes; if this is "
            f"right, pass names={dict(names) | search.open}"
        )
    starts = {t.start: t for t in theirs.values()}
    return [(starts[a], ours[b][0]) for a, b in search.pairs]


class _Search:
    """The counterparts found so far.

    Attributes:
      pairs: paths of PyTorch's layers and of ours.
      open: the `names` that pair those which could be otherwise.
    """

    def __init__(
        self, theirs: Mapping[Keys, Hashable], ours: Mapping[Keys, Hashable]
    ) -> None:
        self.theirs, self.ours = theirs, ours
        self.pairs: list[tuple[Keys, Keys]] = []
        self.open: dict[str, str] = {}

    def match(self, theirs: Paths, ours: Paths) -> None:
        """Pair the layers below two nodes."""
        theirs, ours = _without_start(theirs), _without_start(ours)
        if len(theirs) == len(ours) == 1:
            (a,), (b,) = theirs.values(), ours.values()
            self.pairs += [(a, b)] if self.theirs[a] == self.ours[b] else []
            return
        words = {path[0] for path in theirs if path}
        for split in (set(), words, None):
            below = _children(theirs, set()), _children(ours, split)
            found = _counterparts(
                {name: self._contents(self.theirs, c) for name, c in below[0].items()},
                {name: self._contents(self.ours, c) for name, c in below[1].items()},
            )
            if found and (split == set() or all(sure for *_, sure in found)):
                for a, b, sure in found:
                    self.match(below[0][a], below[1][b])
                    if not sure:
                        self._leave_open(below[0][a], below[1][b])
                return
        for a, b, sure in _counterparts(
            {path: self.theirs[whole] for path, whole in theirs.items()},
            {path: self.ours[whole] for path, whole in ours.items()},
            partly=True,
        ):
            self.pairs.append((theirs[a], ours[b]))
            if not sure:
                self._leave_open({(): theirs[a]}, {(): ours[b]})

    def _contents(self, side: Mapping[Keys, Hashable], paths: Paths) -> Hashable:
        return frozenset(Counter(side[whole] for whole in paths.values()).items())

    def _leave_open(self, theirs: Paths, ours: Paths) -> None:
        ends = [
            whole[: len(whole) - len(path)]
            for paths in (theirs, ours)
            for path, whole in [*paths.items()][:1]
        ]
        self.open[".".join(ends[0])] = "/".join(ends[1])


def _counterparts(
    theirs: Mapping[Keys, Hashable],
    ours: Mapping[Keys, Hashable],
    *,
    partly: bool = False,
) -> list[tuple[Keys, Keys, bool]]:
    """Return who has the same contents, and whether there is no doubt.

    Args:
      theirs: contents by path.
      ours: the same.
      partly: whether to return what there is, if not all have a counterpart.
    """
    groups: dict[Hashable, tuple[list[Keys], list[Keys]]] = defaultdict(
        lambda: ([], [])
    )
    for side, contents in enumerate((theirs, ours)):
        for path, content in contents.items():
            groups[content][side].append(path)
    if not partly and any(len(a) != len(b) for a, b in groups.values()):
        return []
    return [found for a, b in groups.values() for found in _order(a, b)]


def _order(theirs: list[Keys], ours: list[Keys]) -> list[tuple[Keys, Keys, bool]]:
    """Pair paths of equal contents, and say which of the pairs are sure."""
    if len(theirs) == len(ours) == 1:
        return [(theirs[0], ours[0], True)]
    by_name = {plain(path): path for path in ours}
    same = sorted(map(plain, theirs)) == sorted(map(plain, ours))
    places = _places(theirs), _places([_split(path) for path in ours])
    if not same and all(places) and len(places[0][0]) == len(places[1][0]):
        ranks = [sorted(range(len(p)), key=p.__getitem__) for p in places]
        return [(theirs[a], ours[b], True) for a, b in zip(*ranks, strict=False)]
    named = [
        (path, by_name.pop(plain(path)), True)
        for path in theirs
        if plain(path) in by_name and (same or not plain(path).isdecimal())
    ]
    rest = [path for path in theirs if path not in {a for a, *_ in named}]
    others = sorted(by_name.values(), key=_natural)
    if len(rest) == len(others):
        return [*named, *((a, b, False) for a, b in zip(rest, others, strict=True))]
    return named


def _places(paths: list[Keys]) -> list[tuple[int, ...]]:
    """Return the positions in the lists that paths differ by; empty if by more."""
    if len({len(path) for path in paths}) > 1:
        return []
    columns = [c for c in zip(*paths, strict=True) if len(set(c)) > 1]
    if not all(part.isdecimal() for column in columns for part in column):
        return []
    return list(zip(*(map(int, column) for column in columns), strict=True))


def _split(path: Keys, words: set[str] | None = None) -> Keys:
    """Return a path with the numbers of Flax's lists as parts of their own."""
    found: list[str] = []
    for part in path:
        word, _, number = part.rpartition("_")
        listed = word and number.isdecimal() and (words is None or word in words)
        found += [word, number] if listed else [part]
    return tuple(found)


def _without_start(paths: Paths) -> Paths:
    """Return paths from the node below which the layers part."""
    while () not in paths and len({path[0] for path in paths}) == 1:
        paths = {path[1:]: whole for path, whole in paths.items()}
    return paths


def _children(paths: Paths, split: set[str] | None) -> dict[Keys, Paths]:
    found: dict[Keys, Paths] = defaultdict(dict)
    for path, whole in paths.items():
        path = (*_split(path[:1], split), *path[1:])
        found[path[:1]][path[1:]] = whole
    return found


def _natural(path: Keys) -> list[tuple[int, str]]:
    """Sort `layers_2` before `layers_10`."""
    found = re.findall(r"(\D*)(\d*)", "/".join(path))
    return [(int(number or 0), word) for word, number in found]


class _Place(NamedTuple):
    """Where a tensor is.

    Attributes:
      theirs: in PyTorch, without wrappers.
      ours: where `names` has it, else the same.
      pin: the path in `names`, if it is there.
      alone: whether it is there by its whole name.
    """

    theirs: Keys
    ours: Keys
    pin: Keys = ()
    alone: bool = False


def _splitter(names: Iterable[str]) -> Callable[[str], Keys]:
    """Return what splits a name into its parts, without those that wrappers add."""

    def split(name: str) -> Keys:
        parts = name.split(".")
        return tuple(part for part in parts if part and part not in _WRAPPERS)

    above = commonprefix([split(name)[:-1] for name in names])  # noqa: RUF071 - tuples
    outer = tuple(itertools.takewhile(_OUTER.__contains__, above))
    return lambda name: split(name)[len(outer) * _starts(split(name), outer) :]


def _places_of(
    shapes: Iterable[str], tree: Tree, names: Mapping[str, str]
) -> dict[str, _Place]:
    split = _splitter(shapes)
    used: dict[Keys, Keys] = {}
    for start, to in names.items():
        keys = tuple(filter(None, to.split("/")))
        keys = keys[1:] if keys and keys[0] in tree.collections else keys
        if not any(_starts(path, keys) for path in tree.shapes):
            close = get_close_matches(to, map("/".join, tree.shapes), 1, 0.0)
            raise Mismatch(f"no path starts with {to!r}, as `names` has it: {close}")
        used[split(start)] = keys
    unused = set(used)
    places: dict[str, _Place] = {}
    for name in shapes:
        keys = split(name)
        path, leaf = canonical(keys)
        places[name] = _Place(keys, keys)
        for start in sorted(used, key=len):  # the longest counts
            for whole in [k for k in (keys, (*path, leaf)) if _starts(k, start)][:1]:
                rest, pin = whole[len(start) :], used[start]
                places[name] = _Place(keys, (*pin, *rest), pin, not rest)
                unused.discard(start)
    for start in unused:
        raise Mismatch(
            f"no tensor's name starts with {'.'.join(start)!r}, as `names` has it: "
            f"they are {', '.join([*shapes][:3])} ..."
        )
    return places


def _starts(path: Keys, start: Keys) -> bool:
    return path[: len(start)] == start


def _layers(
    shapes: Mapping[str, Shape],
    places: Mapping[str, _Place],
    kinds: Mapping[str, str],
) -> dict[Keys, Layer]:
    """Return PyTorch's layers by their paths, which `names` may have changed."""
    layers: dict[Keys, Layer] = {}
    ends = {place.ours for place in places.values()}
    attention = {keys[:-1] for keys in ends if ATTENTION.fullmatch(keys[-1])}
    starts: set[Keys] = set()
    for name, shape in shapes.items():
        place = places[name]
        (start, _), (path, leaf) = canonical(place.theirs), canonical(place.ours)
        if path[-1:] == ("out_proj",) and path[:-1] in attention:
            path, start, leaf = path[:-1], start[:-1], f"out_proj.{leaf}"
        known = layers[path].tensors.get(leaf) if path in layers else None
        if known and places[known[0]].ours != place.ours:  # `weight` and `scale`
            path, start, leaf = place.ours, place.theirs, "value"
        if path not in layers:
            start = start if start not in starts else place.theirs
            starts.add(start)
            kind = "" if place.alone else kinds.get(name.rpartition(".")[0], "")
            layers[path] = Layer(start, {}, {}, kind, place.pin)
        layer = layers[path]
        layer.tensors.setdefault(leaf, []).append(name)
        if layer.shapes.setdefault(leaf, shape) != shape:
            first = layer.tensors[leaf][0]
            raise Mismatch(f"{first} {layer.shapes[leaf]} and {name} {shape} are one")
    return layers


def _lines(
    lonely: Mapping[Keys, Layer],
    empty: Mapping[Keys, Form],
    tree: Tree,
    names: Mapping[str, str],
) -> str:
    """Return a line for each tensor and leaf without a counterpart, up to a few."""
    taken = {plain(path) for path in lonely}
    index: _Index = defaultdict(list)
    for path, form in empty.items():
        for item in form.shapes.items():
            index[item].append(path)
    theirs = {
        (_like(path, layer, empty, taken, index), leaf): _Lonely(
            named[0], layer.shapes[leaf], layer.shapes[leaf]
        )
        for path, layer in lonely.items()
        for leaf, named in layer.tensors.items()
    }
    ours = {
        (plain(path), name): _Lonely(
            tree.labels[piece.leaf], tree.shapes[piece.leaf], shape
        )
        for path, form in empty.items()
        for name, shape in form.shapes.items()
        for piece in form.tensors[name][:1]
    }
    same = [(theirs.pop(key), ours.pop(key)) for key in [*theirs] if key in ours]
    lines = [f"{a} does not fit {b}" for a, b in same if a.fits != b.fits]
    wrong = len(lines) + len(theirs) + len(ours)
    sides = [*theirs.values()], [*ours.values()]
    for some, others in (sides, sides[::-1]):
        few = some[: max(0, MOST_LINES - len(lines))]
        lines += [_alone(one, others) for one in few]
    if not wrong:
        a, b = same[0]
        lines = [f"{a} and {b} are of two kinds"]
    if wrong > len(lines[:MOST_LINES]):
        lines = [*lines[:MOST_LINES], f"and {wrong - MOST_LINES} more"]
    by_shape = [{one.fits: one.name for one in some} for some in sides]
    if 0 < wrong / 2 == len(by_shape[0]) and by_shape[0].keys() == by_shape[1].keys():
        found = {name: by_shape[1][fits] for fits, name in by_shape[0].items()}
        lines.append(f"if that is right, pass names={dict(names) | found}")
    return "\n".join(lines)


def _like(
    path: Keys, layer: Layer, empty: Mapping[Keys, Form], taken: set[str], index: _Index
) -> str:
    """Return the name of what may be meant: a layer with a tensor more or less."""
    near = (other for item in layer.shapes.items() for other in index.get(item, ()))
    match list(itertools.islice(dict.fromkeys(itertools.islice(near, 3)), 2)):
        case [only] if plain(only) not in taken:
            shapes = empty[only].shapes
            if all(shapes.get(n, size) == size for n, size in layer.shapes.items()):
                return plain(only)
    return plain(path)


class _Lonely(NamedTuple):
    """A tensor or a leaf without a counterpart, and its shape in PyTorch."""

    name: str
    shape: Shape
    fits: Shape

    def __str__(self) -> str:
        return f"{self.name} {self.shape}"


def _alone(one: _Lonely, others: list[_Lonely]) -> str:
    line = f"{one} has no counterpart"
    match [other for other in others if other.fits == one.fits]:
        case [other]:
            return f"{line}; {other} would fit: say so by `names`"
        case [a, b, *rest]:
            more = f" and {len(rest)} more" if rest else ""
            some = f"{a.name} and {b.name}{more}"
            return f"{line}; {some} would fit: say which by `names`"
    few = {other.name: other for other in others if len(others) <= MOST_COMPARED}
    if close := get_close_matches(one.name, few, n=1, cutoff=0.0):
        return f"{line}; closest: {few[close[0]]}"
    return line
