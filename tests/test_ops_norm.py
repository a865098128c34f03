"""Batch norm's passes against the plain formulas: values, and derivatives of every kind."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from flaxarch.ops import moments, scale_and_shift, use_native_forms
from tests.test_ops_random import both, errors

SHAPES = [
    (2, 7, 5, 3),
    (4, 9, 9, 16),
    (1, 1, 1, 4),
    (3, 11),
    (2, 5, 700),
    (2, 3, 2, 4, 5),
    (257, 1),
    (28, 3),
    (6,),
]
LARGE = (2, 90, 91, 130)


def norm(x: jax.Array, center: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """As batch norm has them: moments about a center that is not the mean, then by the mean."""
    offset, square = moments(x, center)
    factor = scale * lax.rsqrt(square - offset**2 + 1e-2)
    return scale_and_shift(x, center + offset, factor, shift)


def loss(*args: jax.Array) -> jax.Array:
    y = norm(*args)
    return (jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape) * y**2).sum()


def arrays(shape: tuple[int, ...], dtype: Any = jnp.float32) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(sum(shape))
    x = rng.normal(1.0, 2.0, shape)
    of_channels = rng.normal(size=(3, shape[-1]))
    return tuple(jnp.asarray(a, dtype) for a in (x, *of_channels))


def second_order(*args: jax.Array) -> Any:
    """Gradients, and how they change along a direction."""
    gradient = jax.grad(loss, (0, 1, 2, 3))
    return jax.jvp(gradient, args, tuple(jnp.cos(a) for a in args))


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_derivatives_are_those_of_the_formulas_in_float64(shape: tuple[int, ...]):
    with jax.enable_x64(True):
        args = arrays(shape, jnp.float64)
        assert max(errors(*both(norm, *args))) < 1e-12
        assert max(errors(*both(second_order, *args))) < 1e-10


@pytest.mark.parametrize("shape", [*SHAPES[:5], LARGE])
def test_sums_are_exact_to_float32(shape: tuple[int, ...]):
    x, center, *_ = arrays(shape)
    sums = jax.jit(lambda *args: moments(*args))(x, center)
    gradient = jax.jit(jax.grad(lambda x, *c: (scale_and_shift(x, *c) * jnp.cos(x)).sum(), (2, 3)))
    scale_bar, shift_bar = gradient(x, center, center, center)
    x, center = np.asarray(x, np.float64), np.asarray(center, np.float64)
    pixels = tuple(range(x.ndim - 1))
    exact = (
        *((x - center).mean(pixels), ((x - center) ** 2).mean(pixels)),
        *((np.cos(x) * (x - center)).sum(pixels), np.cos(x).sum(pixels)),
    )
    for ours, theirs in zip((*sums, scale_bar, shift_bar), exact, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5 * np.sqrt(x.size / x.shape[-1]))


def in_scan(x: jax.Array, *others: jax.Array) -> jax.Array:
    def body(x: jax.Array, scale: jax.Array) -> tuple[jax.Array, None]:
        return jnp.sin(norm(x, others[0], scale, others[2])), None

    scales = jnp.stack([others[1], others[1] + 1])
    return jax.grad(lambda scales: lax.scan(body, x, scales)[0].sum())(scales)


TRANSFORMED: dict[str, Callable[..., Any]] = {
    "second derivatives": second_order,
    "Jacobian forward": lambda x, *others: jax.jacfwd(lambda s: norm(x, others[0], s, others[2]))(others[1]),
    "vmap of images": lambda x, *others: jax.vmap(norm, (0, None, None, None))(jnp.stack([x, x**2]), *others),
    "gradients of each": lambda x, c, *others: jax.vmap(jax.grad(loss, (0, 1, 2, 3)), (None, -1, None, None))(
        x, jnp.stack([c, c + 1], -1), *others
    ),
    "vmap of single pixels": lambda x, *others: jax.vmap(norm, (0, None, None, None))(x[0, 0], *others),
    "scan": in_scan,
    "cond": lambda *args: jax.grad(
        lambda *args: lax.cond(args[0].sum() > -1e9, loss, lambda *a: a[0].sum(), *args), (0, 2)
    )(*args),
    "remat": lambda *args: jax.grad(jax.checkpoint(loss), (0, 1, 2, 3))(*args),
    "no shift": lambda x, c, s, _: jax.grad(lambda *a: (scale_and_shift(*a) ** 2).sum(), (0, 1, 2))(x, c, s),
    "one argument": lambda x, *others: jax.grad(lambda c: loss(x, c, *others[1:]))(others[0] + 1),
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_norm_equals_the_formulas_under(name: str):
    args = arrays((3, 6, 5, 4))
    assert max(errors(*both(TRANSFORMED[name], *args))) < 1e-5


@pytest.mark.parametrize("check_vma", [True, False])
def test_devices_that_share_their_moments_have_the_gradients_of_the_whole(check_vma: bool):
    x, *others = arrays((4, 6, 5, 3))

    def on_devices(x: jax.Array, center: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
        offset, square = lax.pmean(moments(x, center), "devices")
        factor = scale * lax.rsqrt(square - offset**2 + 1e-2)
        return lax.psum((scale_and_shift(x, center + offset, factor, shift) ** 3).sum(), "devices")

    mesh = Mesh(np.asarray(jax.local_devices()[:2]), ("devices",))
    whole, split = PartitionSpec(), PartitionSpec("devices")
    specs = (split, whole, whole, whole)
    shards = jax.shard_map(on_devices, mesh=mesh, in_specs=specs, out_specs=whole, check_vma=check_vma)
    of_shards = jax.jit(jax.value_and_grad(shards, (0, 2, 3)))(x, *others)
    with use_native_forms(True):
        of_whole = jax.value_and_grad(lambda *args: (norm(*args) ** 3).sum(), (0, 2, 3))(x, *others)
    assert max(errors(of_shards, of_whole)) < 1e-5


def test_bfloat16_is_computed_in_float32():
    x, *others = arrays((4, 9, 9, 16))
    small = x.astype(jnp.bfloat16)
    expected = norm(small.astype(jnp.float32), *others)
    np.testing.assert_allclose(norm(small, *others), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wrong", [(2,), (1,), (1, 4), ()])
def test_other_channels_than_the_images_end_in_a_sentence(wrong: tuple[int, ...]):
    x, center, scale, _ = arrays((2, 3, 3, 4))
    with pytest.raises(ValueError, match=r"of shape \(2, 3, 3, 4\) has 4 channels, and is given "):
        moments(x, jnp.zeros(wrong))
    with pytest.raises(ValueError, match=r"has 4 channels, and is given "):
        scale_and_shift(x, center, scale, jnp.zeros(wrong))


def test_a_batch_of_any_size_can_be_exported():
    args = arrays((3, 4, 5, 6))
    batch = jax.export.symbolic_shape("n, 4, 5, 6")
    shapes = (jax.ShapeDtypeStruct(batch, jnp.float32), *args[1:])
    program = jax.export.export(jax.jit(jax.grad(lambda *args: loss(*args), (0, 2))))(*shapes)
    assert max(errors(program.call(*args), jax.grad(loss, (0, 2))(*args))) < 1e-5


def test_on_other_platforms_a_norm_is_plain_arithmetic():
    with use_native_forms(True):
        program = str(jax.make_jaxpr(lambda *args: norm(*args))(*arrays((2, 3, 3, 4))))
    assert "scale_and_shift" not in program
    assert "channel_moments" not in program
