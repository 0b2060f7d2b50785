"""The figures of a run, and what they show in words, for the page of `report`."""

import base64
import struct
from pathlib import Path
from typing import NamedTuple


class Words(NamedTuple):
    """What stands beside a figure.

    Attributes:
      caption: what to look for; stands under it.
      alt: what is drawn, for those who do not see it. It names no outcome: that is in
        the tables, and differs from run to run.
    """

    caption: str
    alt: str


class Figure(NamedTuple):
    """A PNG as a data URI, its size in pixels, and what is said of it."""

    source: str
    width: int
    height: int
    words: Words


FIGURES = {
    "backprop": {
        "graph.png": Words(
            "Every quantity of the forward pass, and how much the objective depends "
            "on it.",
            "A graph of nine nodes: x and w1 lead to z, z to h, h and w2 to o, o to L; "
            "w1 and w2 lead to the penalty s; L and s lead to J. Each node has its "
            "norm above it and, except x, the norm of its gradient below.",
        ),
        "differences.png": Words(
            "Too long a step is not a derivative, too short a one is rounding; in "
            "between the gradient by hand is confirmed.",
            "Line chart on logarithmic axes: the relative difference between central "
            "differences and the gradient by hand against the step, one line for "
            "float64 and one for float32, each with a valley.",
        ),
    },
    "benchmark": {
        "benchmark.png": Words(
            "How fast each way is; eager PyTorch is 1, the grey bar is what the "
            "matrix products alone would allow.",
            "Bar charts on a logarithmic scale, one for each system: the speed of each "
            "way to do the same work against that of eager PyTorch, JAX in blue, "
            "PyTorch in orange.",
        ),
    },
    "blocks": {
        "halvings.png": Words(
            "A loop in the forward pass: the value jumps and the gradient halves "
            "wherever one more halving is needed.",
            "Two line charts against the factor on the input rows, from 0.0001 to "
            "10,000: on the left the value, a saw with a tooth for each halving; on "
            "the right the norm of the gradient, which goes down in steps.",
        ),
    },
    "compare": {
        "drift.png": Words(
            "The same run on both sides, step by step: float64 stays at rounding, "
            "float32 drifts as training amplifies it.",
            "A line chart for each system, on a logarithmic scale: the relative "
            "difference between the parameters in JAX and in PyTorch against the step, "
            "one line for float64 and one for float32, and the bound as a dotted line.",
        ),
        "outcomes.png": Words(
            "Runs that share nothing but the recipe: the difference of the means has "
            "to lie between the dashed lines.",
            "For each system a histogram of the outcomes of independent runs in JAX "
            "and in PyTorch, and below it the difference of their means with its 90% "
            "interval between two margins.",
        ),
        "times.png": Words(
            "The same training; PyTorch, eager, is 1.",
            "Bar chart on a logarithmic scale: for each system how many times as fast "
            "as eager PyTorch each way to train it is.",
        ),
    },
    "dropout": {
        "curves.png": Words(
            "What dropout costs in training, and what it does to the gap between "
            "training and test.",
            "Two line charts against the epoch, one colour for the network with and "
            "one for the network without dropout: on the left the training loss on a "
            "logarithmic scale, on the right training accuracy, dotted, and test "
            "accuracy, solid. Where there are several seeds a band is one standard "
            "deviation.",
        ),
        "predictions.png": Words(
            "The first ten test images; a wrong prediction is orange.",
            "A row of ten grey pictures of clothes, each with its true class above "
            "and the predicted class below.",
        ),
    },
    "end_to_end": {
        "end_to_end.png": Words(
            "What somebody waits for who types the command.",
            "Three bars, the median seconds of whole commands: ours the first time, "
            "ours with compiled programs kept, and PyTorch's; a point for each round.",
        ),
    },
    "growth": {
        "growth.png": Words(
            "Time and memory of an epoch when one size grows; the dashed line is its "
            "matrix products alone.",
            "Two rows of four line charts on logarithmic axes: seconds above and "
            "megabytes below, against batch size, width, rows and population; dashed "
            "the seconds of the matrix products.",
        ),
    },
    "house_prices": {
        "curves.png": Words(
            "How far the book's linear model comes in its epochs.",
            "Two line charts of the log RMSE against the epoch: on the left training "
            "and validation error of fold 1, on the right the training error of the "
            "model that is fitted to all rows.",
        ),
        "search.png": Words(
            "Where the best settings lie; a bar is a standard error over the folds.",
            "Two line charts, linear model and perceptron, of the cross-validated log "
            "RMSE against the peak learning rate, a line for each pair of weight decay "
            "and dropout rate.",
        ),
        "out_of_fold.png": Words(
            "Every house, predicted by models that never saw it.",
            "Scatter chart of the predicted against the true price in dollars, both "
            "logarithmic, with the line where they are equal and the eight worst "
            "predictions marked.",
        ),
    },
    "initialization": {
        "sigmoid.png": Words(
            "At most a quarter of the gradient passes through each sigmoid.",
            "Line chart of the sigmoid, which rises from 0 to 1, and of its gradient, "
            "a bump of height 0.25 around zero, for inputs from -8 to 8.",
        ),
        "products.png": Words(
            "What a hundred layers do to a signal: it explodes or vanishes, unless "
            "the scale is right.",
            "Line chart of the decimal logarithm of the norm of a product of random "
            "matrices against their number, from 1 to 100, a line with a band for "
            "each of three standard deviations of the entries.",
        ),
        "signal.png": Words(
            "Before training: what reaches the last layer, and what comes back to the "
            "first.",
            "Three line charts against the layer, a line for each of eight networks, "
            "on a logarithmic scale: the size of the activations, how much they differ "
            "between images, and the norm of the gradient.",
        ),
        "symmetry.png": Words(
            "From a constant, all units of a layer stay copies of each other.",
            "Two rows of eight small images, the weights of eight hidden units: above "
            "from a constant start, below from a random one.",
        ),
        "remedies.png": Words(
            "Each remedy beside what it mends.",
            "Four line charts of the test accuracy against the epoch: initialisation "
            "and activation, residual connections, layer normalisation, and gradient "
            "clipping, a line for each recipe.",
        ),
    },
    "layers": {
        "learning.png": Words(
            "A layer that reads its weights behind the gradient's back never learns "
            "them.",
            "Line chart of half the squared error against the step, one line for the "
            "layer whose weights are trained and one for the layer whose gradient is "
            "stopped.",
        ),
    },
    "profile": {
        "profile.png": Words(
            "What an epoch consists of: the products, and little else.",
            "Bar chart: the seconds that each part of an epoch takes alone, and its "
            "share of the whole epoch.",
        ),
    },
    "weight_decay": {
        "curves.png": Words(
            "Without the penalty only the training loss falls; with it, the test loss "
            "does too.",
            "Two line charts of the halved squared error against the epoch on a "
            "logarithmic scale, without and with the penalty: training and test "
            "loss, from scratch solid and concisely dashed.",
        ),
        "sweep.png": Words(
            "The larger lambda is, the smaller the weights; the dotted line is what "
            "weights of zero would give.",
            "Three line charts against lambda on logarithmic axes, for SGD: training "
            "loss, test loss and norm of the weights, the median over the seeds with "
            "a band for the middle 80%.",
        ),
        "adam.png": Words(
            "A penalty inside Adam's gradient is rescaled away; AdamW's decay is not.",
            "Three line charts against lambda on logarithmic axes: training loss, test "
            "loss and norm of the weights, one colour for L2 in Adam and one for "
            "AdamW, medians with a band for the middle 80%.",
        ),
    },
}


def figures(experiment: str, folder: Path) -> list[Figure]:
    """Return the figures of a run, in the order in which they are best looked at."""
    order = {file: place for place, file in enumerate(FIGURES.get(experiment, ()))}
    paths = sorted(folder.glob("*.png"), key=lambda p: (order.get(p.name, 99), p.name))
    return [figure(path, words(experiment, path.name)) for path in paths]


def figure(path: Path, words: Words) -> Figure:
    """Read a PNG; its size stands in its first bytes."""
    content = path.read_bytes()
    encoded = base64.b64encode(content).decode()
    width, height = struct.unpack(">II", content[16:24])
    return Figure(f"data:image/png;base64,{encoded}", width, height, words)


def words(experiment: str, file: str) -> Words:
    """Return what is said of a figure; little where nothing is known of it."""
    unknown = Words(file, f"The figure {file} of the experiment {experiment}.")
    return FIGURES.get(experiment, {}).get(file, unknown)
