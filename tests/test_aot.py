"""Programs compiled for chips that are not here: what is read from them is right."""

import importlib.util
from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from ch4jax import training
from ch4jax.training import sharding
from experiments import aot
from experiments.common.errors import UsageError

TEXT = """
%last.1 (p: (s32[], f32[8,4])) -> pred[] {
  %bound = s32[]{:T(128)} constant(29)
}
%layer.2 (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %r.1 = f32[8,4]{1,0} all-reduce(%g), to_apply=%add
}
%step.3 (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %x = f32[16,8]{1,0} parameter(0)
  %y = f32[8,4]{1,0} parameter(1)
  %z = bf16[8,4]{1,0} parameter(2)
  %g = f32[16,4]{1,0} dot(%x, %y), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %h = f32[16,4]{1,0} convolution(%x, %y), dim_labels=bf_io->bf, operand_precision={{P}}
  %l = bf16[16,4]{1,0} dot(%z, %z), lhs_contracting_dims={1}, rhs_contracting_dims={1}
  %w = (s32[], f32[8,4]) while(%t), condition=%last.1, body=%layer.2
  %r.2 = (f32[8]{0}, s8[2,3]{1,0}) all-reduce-start(%g, %h), to_apply=%add
}
ENTRY %main.4 (p: f32[8,4]) -> f32[8,4] {
  %r.3 = f32[]{} all-reduce(%once), to_apply=%add
  %v = (s32[], f32[8,4]) while(%t), condition=%other, body=%step.3
}
""".replace("{P}", "highest,highest")


def test_products_and_their_precision_are_read_from_a_compiled_program():
    product = 2 * 16 * 8 * 4
    assert aot.products(TEXT) == [
        *((product, "default"), (product, "highest"), (2 * 16 * 4 * 4, "bf16"))
    ]


def test_what_a_step_passes_on_is_counted_whatever_its_dtype_and_inner_loops_too():
    assert aot.collectives(TEXT) == [(29, 8 * 4 * 4), (1, 8 * 4 + 6)]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (["v5e:2"], "--targets must be such as .* got v5e:2"),
        ([], "--targets must be such as .* got none"),
        (["h100:1"], "needs jax-cuda12-plugin"),
    ],
)
def test_a_target_that_cannot_be_compiled_for_is_one_line(target, message, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=message):
        aot.Config(targets=tuple(target))


def test_the_largest_population_leaves_a_twentieth_and_an_eighth_more_is_refused(
    monkeypatch,
):
    def examine(target, program, options):
        mb = 3.1 * program.members
        fits = {"mb": mb if mb <= 17_000 else None}
        return {"members": program.members, "memory_mb": 17_000} | fits

    monkeypatch.setattr(aot, "examine", examine)
    chip = aot.Target("v5e:1x1", "v5e", sharding.make_mesh(1))
    rows = list(aot.largest_population(chip))
    low = max(row["members"] for row in rows if row["mb"])
    high = min(row["members"] for row in rows if not row["mb"])
    assert 0.94 * 17_000 < 3.1 * low < 0.95 * 17_000
    assert high - low <= low // 8 + 1


def softmax(params, x, labels, *, key):
    x = x.reshape(len(x), -1) / 255.0
    return training.classification_metrics(x @ params, labels)


@pytest.fixture(scope="module")
def compiled():
    """Return a function that compiles an epoch for four chips, as text."""
    pytest.importorskip("libtpu", reason='needs pip install "ch4jax[aot]"')
    mesh = aot.target_of("v5e:2x2").mesh

    def text(members, precision):
        def init(key):
            return jnp.zeros((784, 10))

        lower = aot.epoch(init, softmax, mesh, members, rows=512)
        with jax.default_matmul_precision(precision):
            return lower().compile().as_text()

    return text


@pytest.mark.parametrize(
    ("members", "precision", "bytes_passed"),
    [
        (1, "highest", [4 * 7840]),
        (1, "default", [4 * 7840]),
        (8, "highest", []),
    ],
)
def test_a_step_for_a_tpu_has_the_products_counted_by_hand_and_one_sum_by_rows(
    compiled, members, precision, bytes_passed
):
    text = compiled(members, precision)
    forward = 2 * 784 * 10 * 256 * members / 4
    assert sum(flops for flops, _ in aot.products(text)) == 2 * forward
    assert aot.collectives(text) == [(1, size) for size in bytes_passed]
    found = Counter(kind for _, kind in aot.products(text))
    assert (set(found) == {"highest"}) == (precision == "highest")
