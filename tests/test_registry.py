"""The registry's rows: exact counts and costs of all of them, names, and errors."""

import importlib
import math
import pkgutil
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import flaxarch
import flaxarch.models
from flaxarch.layers import Network
from flaxarch.ops import use_native_forms
from flaxarch.registry import UnknownModelError

# They take seconds to trace, and differ from other rows in nothing but numbers: of layers, features, groups.
DEEP = [
    "plain1202",
    "resnet1202",
    "resnet1202_b",
    "resnet1202_sd",
    "preact_resnet1001",
    "preact_resnet200",
    "seresnet110",
    "seresnet110_b",
    "densenet_100_12",
    "densenet_100_24",
    "densenet_bc_190_40",
    "densenet_bc_250_24",
    "densenet161",
    "densenet201",
    "densenet264",
    "densenet169_keras",
    "densenet201_keras",
    "resnet152",
    "resnet152_keras",
    "resnet152v2_keras",
    "resnetv2_152",
    "wide_resnet101_2",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "seresnet101_v1",
    "seresnet152",
    "seresnet152_v1",
    "seresnet101",
    "seresnext101_32x4d",
    "senet154",
    "legacy_seresnet152",
    "dpn98",
    "dpn107",
    "dpn131",
]
each_row = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in DEEP else name for name in flaxarch.list_models()],
)


class Traced(NamedTuple):
    params: Any
    batch_stats: Any
    macs: int


@cache
def traced(name: str) -> Traced:
    """Shapes of a row's variables, and the cost of the evaluation that makes them; computes nothing."""
    model, row = flaxarch.create(name), flaxarch.published(name)
    images = jax.ShapeDtypeStruct((1, *row.input_shape), jnp.float32)
    with use_native_forms(True):
        jaxpr, variables = jax.make_jaxpr(partial(model.init, train=False), return_shape=True)(
            jax.random.key(0), images
        )
        if model.aux_heads:  # `init` runs them, to make their parameters, and evaluation does not
            jaxpr = jax.make_jaxpr(partial(model.apply, train=False))(variables, images)
    return Traced(variables["params"], variables.get("batch_stats", {}), macs(jaxpr.jaxpr))


def macs(jaxpr: Any) -> int:
    """Multiply-accumulates of the convolutions and matrix products in a jaxpr, and in those inside it."""
    total = 0
    for eqn in jaxpr.eqns:
        shape = eqn.outvars[0].aval.shape if eqn.outvars else ()
        if eqn.primitive is lax.conv_general_dilated_p:
            kernel = eqn.invars[1].aval.shape
            features = eqn.params["dimension_numbers"].rhs_spec[0]
            total += math.prod(shape) * math.prod(kernel) // kernel[features]
        elif eqn.primitive is lax.dot_general_p:
            (contracted, _), _ = eqn.params["dimension_numbers"]
            total += math.prod(shape) * math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            total += macs(inner) * eqn.params.get("length", 1) if hasattr(inner, "eqns") else 0
    return total


def size(tree: Any) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


@each_row
def test_param_count_matches_published(name: str):
    assert size(traced(name).params) == flaxarch.published(name).num_params


@each_row
def test_batch_stat_count_matches_published(name: str):
    assert size(traced(name).batch_stats) == flaxarch.published(name).num_batch_stats


@each_row
def test_macs_match_published(name: str):
    assert traced(name).macs == flaxarch.published(name).macs


def test_walk_over_the_registry_misses_no_family_and_no_row():
    assert set(DEEP) <= set(flaxarch.list_models())
    files = [module.name for module in pkgutil.iter_modules(flaxarch.models.__path__)]
    families = [importlib.import_module(f"flaxarch.models.{name}") for name in files]
    rows = [name for family in families for name in getattr(family, "VARIANTS", ())]
    assert sorted(rows) == flaxarch.list_models()
    assert len(set(rows)) == len(rows)


def test_macs_are_those_of_arithmetic():
    def network(x, kernel, dense):
        y = lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2
        )
        return jax.jit(jnp.matmul)(y.mean((1, 2)), dense)

    args = jnp.ones((1, 8, 8, 6)), jnp.ones((3, 3, 3, 10)), jnp.ones((10, 7))
    assert macs(jax.make_jaxpr(network)(*args).jaxpr) == 4 * 4 * 10 * 3 * 3 * 3 + 10 * 7


def test_list_models_is_sorted_and_takes_a_pattern():
    names = flaxarch.list_models()
    assert names == sorted(names)
    assert flaxarch.list_models("wrn_2*") == ["wrn_28_10"]
    assert flaxarch.list_models("wrn_16*") == ["wrn_16_10", "wrn_16_4", "wrn_16_8"]
    assert flaxarch.list_models("alexnot*") == []


def test_published_row_tells_what_the_network_expects():
    row = flaxarch.published("resnet50")
    assert (row.input_shape, row.num_classes, row.channels) == ((224, 224, 3), 1000, "RGB")
    assert row.mean == (0.485, 0.456, 0.406)
    assert flaxarch.published("resnet50_keras").channels == "BGR"
    assert flaxarch.published("resnet20").input_shape == (32, 32, 3)


@pytest.mark.parametrize("function", [flaxarch.create, flaxarch.published])
def test_unknown_name_suggests_the_nearest(function):
    with pytest.raises(UnknownModelError, match=r"no model named 'resnet5O': did you mean .*resnet50"):
        function("resnet5O")


def test_name_like_no_other_points_to_the_list():
    with pytest.raises(UnknownModelError, match=r"list_models\(\) has all names"):
        flaxarch.create("???")


@pytest.mark.parametrize("num_classes", [0, -1])
def test_network_without_classes_is_refused(num_classes: int):
    with pytest.raises(ValueError, match="has at least one class"):
        flaxarch.create("resnet20", num_classes=num_classes)


def test_num_classes_is_the_rows_own_unless_given():
    assert flaxarch.create("resnet20").num_classes == 10
    assert flaxarch.create("resnet18").num_classes == 1000
    assert flaxarch.create("resnet18", num_classes=7).num_classes == 7


def test_create_makes_a_linen_module_of_the_dtype_asked_for():
    model = flaxarch.create("resnet18", dtype=jnp.bfloat16)
    assert isinstance(model, Network)
    assert model.dtype == jnp.bfloat16
