"""oneDNN's kernels against lax's own operations: values, and derivatives of every kind."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from jax.sharding import Mesh, PartitionSpec

import flaxarch
from flaxarch.ops import avg_pool, cpu_kernels, max_pool, use_cpu_kernels, use_native_forms
from tests.test_ops_random import TRANSFORMED, Case, errors, random_case, value_and_gradients

NHWC = ("NHWC", "HWIO", "NHWC")


@pytest.fixture(scope="module")
def kernels() -> None:
    """Skips a test where there is no kernel to test, and says why."""
    with use_cpu_kernels(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if not cpu_kernels():
            pytest.skip(str(said[0].message) if said else "not on CPU")


needs_kernels = pytest.mark.usefixtures("kernels")


def both(function: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    """Results with the kernels and of lax's operations; a new function each: what was traced is kept."""
    with use_cpu_kernels():
        ours = jax.jit(lambda *args: function(*args))(*args)
    with use_native_forms(True):
        return ours, jax.jit(lambda *args: function(*args))(*args)


def calls(function: Callable[..., Any], *args: Any) -> str:
    """The program that JAX makes of it, with the kernels wanted."""
    with use_cpu_kernels():
        return str(jax.make_jaxpr(lambda *args: function(*args))(*args))


def is_left_out(case: Case) -> bool:
    """What the kernels don't do, or not well: pads that crop, and dilated depthwise convolutions."""
    is_depthwise = 1 < case.groups == case.images[-1]
    return min(min(side) for side in case.padding) < 0 or (is_depthwise and case.dilation != (1, 1))


def check(case: Case) -> None:
    x, w = case.arrays(jnp.float32)
    assert ("onednn" in calls(case, x, w)) != is_left_out(case)
    ours, expected = both(value_and_gradients(case), x, w)
    assert max(errors(ours, expected)) < 1e-5, case


CASES = {
    "dense": Case((3, 9, 8, 5), (3, 3, 5, 7), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "strided, more pad behind": Case((2, 10, 9, 4), (3, 2, 4, 6), (2, 3), ((0, 1), (0, 2)), (1, 1), 1),
    "dilated": Case((2, 12, 11, 4), (3, 3, 4, 4), (1, 2), ((2, 2), (3, 1)), (2, 3), 1),
    "grouped": Case((2, 8, 8, 12), (3, 3, 4, 6), (1, 1), ((1, 1), (1, 1)), (1, 1), 3),
    "depthwise, two outputs a channel": Case(
        (2, 9, 9, 6), (3, 3, 1, 12), (2, 2), ((1, 1), (0, 1)), (1, 1), 6
    ),
    "pointwise, strided": Case((2, 7, 7, 16), (1, 1, 16, 8), (2, 2), ((0, 0), (0, 0)), (1, 1), 1),
    "one image, cut into rows": Case((1, 64, 9, 3), (5, 3, 3, 4), (2, 1), ((2, 2), (1, 1)), (2, 1), 1),
    "one image, rows that no window sees": Case(
        (1, 64, 5, 4), (1, 1, 4, 4), (3, 3), ((0, 0), (0, 0)), (1, 1), 1
    ),
    "a kernel packed in pieces": Case((1, 7, 7, 96), (3, 3, 96, 100), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "the last features fill no block": Case(
        (1, 5, 4, 300), (1, 1, 300, 1000), (1, 1), ((0, 0), (0, 0)), (1, 1), 1
    ),
    "packed for several images": Case((5, 7, 7, 64), (3, 1, 64, 130), (2, 1), ((1, 0), (0, 0)), (1, 1), 1),
}


@needs_kernels
@pytest.mark.parametrize("name", CASES)
def test_convolution_and_both_gradients_equal_lax(name: str):
    check(CASES[name])


@needs_kernels
@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 300, 50))
def test_convolutions_of_random_shapes_equal_lax(first: int):
    for seed in range(first, first + 50):
        check(random_case(seed))


@needs_kernels
@pytest.mark.parametrize("name", TRANSFORMED)
def test_convolution_equals_lax_under(name: str):
    case = Case((2, 7, 6, 3), (3, 2, 3, 4), (2, 1), ((1, 1), (0, 1)), (1, 2), 1)
    ours, expected = both(TRANSFORMED[name], *case.arrays(jnp.float32))
    assert max(errors(ours, expected)) < 1e-5


@needs_kernels
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_grouped_convolution_is_mapped_over(axes):
    case = CASES["grouped"]
    x, w = case.arrays(jnp.float32)
    x, w = (jnp.stack([a, 1 - a]) if axis == 0 else a for a, axis in ((x, axes[0]), (w, axes[1])))
    ours, expected = both(jax.vmap(value_and_gradients(case), axes), x, w)
    assert max(errors(ours, expected)) < 1e-5


def loss_on_devices(x: jax.Array, w: jax.Array) -> jax.Array:
    case = CASES["dense"]
    return lax.pmean((max_pool(case(x, w), (2, 2), (2, 2)) ** 2).mean(), "devices")


@needs_kernels
def test_devices_of_pmap_have_their_own_gradients_each_time():
    x, w = CASES["dense"].arrays(jnp.float32)
    x = jnp.stack([x * i for i in range(1, jax.local_device_count() + 1)])

    def gradient() -> Callable[..., jax.Array]:
        return jax.pmap(jax.grad(lambda w, x: loss_on_devices(x, w)), "devices", in_axes=(None, 0))

    with use_cpu_kernels(False):
        expected = gradient()(w, x)
    with use_cpu_kernels():
        ours = gradient()
        for _ in range(30):  # all devices call the kernels at once, and none may see another's arrays
            assert max(errors(ours(w, x), expected)) < 1e-5


@needs_kernels
@pytest.mark.parametrize("check_vma", [True, False])
def test_shards_have_the_gradients_of_the_whole(check_vma: bool):
    mesh = Mesh(np.asarray(jax.local_devices()[:2]), ("devices",))
    x, w = CASES["dense"].arrays(jnp.float32)
    x = jnp.concatenate([x, 2 * x])
    specs = (PartitionSpec("devices"), PartitionSpec())
    with use_cpu_kernels():
        loss = jax.shard_map(
            loss_on_devices, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=check_vma
        )
        of_shards = jax.jit(jax.value_and_grad(loss, (0, 1)))(x, w)

    def of_whole(x: jax.Array, w: jax.Array) -> jax.Array:
        return (max_pool(CASES["dense"](x, w), (2, 2), (2, 2)) ** 2).mean()

    with use_cpu_kernels(False):
        whole = jax.value_and_grad(of_whole, (0, 1))(x, w)
    assert max(errors(of_shards, whole)) < 1e-5


@needs_kernels
def test_bfloat16_stays_bfloat16_and_near_float32():
    for case in (CASES["dense"], CASES["depthwise, two outputs a channel"]):
        x, w = case.arrays(jnp.bfloat16)
        y_bar = jnp.sign(case(x, w))

        def run(x: jax.Array, w: jax.Array, y_bar: jax.Array, case: Case = case) -> Any:
            y, pull = jax.vjp(case, x, w)
            return y, pull(y_bar)

        ours, _ = both(run, x, w, y_bar)
        _, exact = both(run, *(a.astype(jnp.float32) for a in (x, w, y_bar)))
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
            assert a.dtype == jnp.bfloat16
            largest = float(jnp.abs(b).max())
            np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=0, atol=2**-8 * largest)


@needs_kernels
@pytest.mark.parametrize(
    ("dtypes", "arguments"),
    [
        ((jnp.float32, jnp.float32), {"precision": lax.Precision.HIGHEST}),
        ((jnp.float32, jnp.float32), {"lhs_dilation": (2, 2), "padding": ((1, 1), (1, 1))}),
        ((jnp.float32, jnp.float32), {"padding": ((-1, 0), (0, 0))}),
        ((jnp.float16, jnp.float16), {}),
        ((jnp.float32, jnp.float32), {"dimension_numbers": ("NHWC", "OIHW", "NHWC")}),
    ],
)
def test_what_the_kernels_cannot_do_is_left_to_other_forms(dtypes, arguments):
    x, w = jnp.ones((1, 5, 5, 3), dtypes[0]), jnp.ones((3, 3, 3, 3), dtypes[1])
    arguments = {"padding": "SAME", "dimension_numbers": NHWC, **arguments}
    conv = partial(flaxarch.ops.conv_general_dilated, window_strides=(1, 1), **arguments)
    assert "onednn" not in calls(conv, x, w)


@needs_kernels
def test_a_kernel_of_the_size_of_the_image_is_a_matrix_product():
    """To pack VGG-16's 7x7 of 4096 features for one image takes longer than the product."""
    conv = partial(
        flaxarch.ops.conv_general_dilated, window_strides=(1, 1), padding="VALID", dimension_numbers=NHWC
    )
    x, w = jax.ShapeDtypeStruct((2, 7, 7, 5), jnp.float32), jax.ShapeDtypeStruct((7, 7, 5, 9), jnp.float32)
    assert "onednn" not in calls(conv, x, w)


@needs_kernels
def test_no_image_gives_no_result_and_a_gradient_of_zero():
    case = CASES["dense"]._replace(images=(0, 9, 8, 5))
    y, (x_bar, w_bar) = both(value_and_gradients(case), *case.arrays(jnp.float32))[0]
    assert y.size == x_bar.size == 0
    np.testing.assert_array_equal(w_bar, np.zeros(case.kernel))


@needs_kernels
@pytest.mark.parametrize(
    "case",
    [
        Case((16, 8, 8, 8), (3, 3, 8, 8), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
        CASES["a kernel packed in pieces"],
    ],
)
def test_the_same_call_gives_the_same_bits(case: Case):
    with use_cpu_kernels():
        run = jax.jit(value_and_gradients(case))
    first = run(*case.arrays(jnp.float32))
    for _ in range(20):
        jax.tree.map(np.testing.assert_array_equal, run(*case.arrays(jnp.float32)), first)


class Net(nn.Module):
    """Every kind of layer that the kernels compute, once: (N, 16, 16, 3) -> (N, 5)."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv = partial(nn.Conv, use_bias=False, conv_general_dilated=flaxarch.ops.conv_general_dilated)
        for features, kernel, groups in ((8, 3, 1), (8, 3, 8), (16, 1, 1), (16, 3, 4)):
            x = nn.relu(conv(features, (kernel, kernel), feature_group_count=groups)(x))
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = max_pool(x, (3, 3), (2, 2), 1) + avg_pool(x, (2, 2), (2, 2))
        return nn.Dense(5)(x.mean((1, 2)))


@needs_kernels
@pytest.mark.parametrize(
    ("name", "train"),
    [
        (None, True),
        pytest.param("resnet20", True, marks=pytest.mark.slow),
        pytest.param("mobilenet_025", False, marks=pytest.mark.slow),
    ],
)
def test_a_network_has_the_same_logits_and_gradients_with_and_without(name: str | None, train: bool):
    model = Net() if name is None else flaxarch.create(name, num_classes=5)
    images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3) if name else (4, 16, 16, 3))
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(1), images)
    rng = np.random.default_rng(2)

    def draw(p: jax.ShapeDtypeStruct) -> jax.Array:  # kernels and matrices; scales, variances and the like
        values = rng.normal(size=p.shape) / 10 if len(p.shape) > 1 else rng.uniform(0.5, 1.5, p.shape)
        return jnp.asarray(values, p.dtype)

    variables = jax.tree.map(draw, shapes)

    def loss(params: Any) -> Any:
        both = {**variables, "params": params}
        logits, _ = model.apply(both, images, train=train, mutable=["batch_stats"])
        return jax.nn.logsumexp(logits, axis=-1).sum(), logits

    results = []
    for wanted in (True, False):
        with use_cpu_kernels(wanted):
            grad = jax.grad(lambda params: loss(params), has_aux=True)
            results.append(jax.jit(grad)(variables["params"]))
    assert max(errors(*results)) < 1e-4


@needs_kernels
def test_kernels_are_off_unless_asked_for(monkeypatch: pytest.MonkeyPatch):
    x, w = CASES["dense"].arrays(jnp.float32)
    monkeypatch.delenv("FLAXARCH_CPU_KERNELS", raising=False)
    assert "onednn" not in str(jax.make_jaxpr(lambda x, w: CASES["dense"](x, w))(x, w))
    monkeypatch.setenv("FLAXARCH_CPU_KERNELS", "1")
    assert "onednn" in str(jax.make_jaxpr(lambda x, w: CASES["dense"](x, w))(x, w))
    with use_cpu_kernels(False):
        assert "onednn" not in str(jax.make_jaxpr(lambda x, w: CASES["dense"](x, w))(x, w))
    with use_native_forms(True):  # for a GPU, say: it would not know them
        assert "onednn" not in calls(CASES["dense"], x, w)
