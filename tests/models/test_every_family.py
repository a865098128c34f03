"""What holds for every family: the cheapest row of each class of network, traced and never compiled."""

import re
from collections.abc import Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

import flaxarch
from flaxarch.layers import Network
from flaxarch.ops import use_native_forms
from flaxarch.registry import FAMILIES


def cheapest_of_each_class() -> list[str]:
    """Per family file and class of network, the row with the fewest multiply-accumulates."""
    rows: dict[tuple[str, type], list[str]] = {}
    for family in FAMILIES:
        for name in family.VARIANTS:
            rows.setdefault((family.__name__, type(flaxarch.create(name))), []).append(name)
    return [min(names, key=lambda name: flaxarch.published(name).macs) for names in rows.values()]


ROWS = cheapest_of_each_class()
WITH_EXITS = [name for name in ROWS if flaxarch.create(name).aux_heads]
each_family = pytest.mark.parametrize("name", ROWS)

CHANNELS = (
    r"has parameters for (\d+) channels and is given (\d+): the images need as many channels as those of"
)
SMALLEST = r"needs images of at least (\d+)x(\d+) pixels, not (\d+)x(\d+) \(height x width of an NHWC batch\)"


@pytest.fixture(autouse=True)
def native_forms() -> Iterator[None]:
    """One convolution is one operation to trace."""
    with use_native_forms(True):
        yield


def images(name: str, num_images: int = 1, channels: int | None = None) -> jax.ShapeDtypeStruct:
    """Of the row's size."""
    height, width, own = flaxarch.published(name).input_shape
    return jax.ShapeDtypeStruct(
        (num_images, height, width, own if channels is None else channels), jnp.float32
    )


def square(name: str, size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, size, size, flaxarch.published(name).input_shape[2]), jnp.float32)


@cache
def shapes(name: str, num_classes: int | None = None, channels: int | None = None) -> Any:
    """Of parameters and batch statistics, and nothing else."""
    init, _ = flaxarch.functional(flaxarch.create(name, num_classes))
    return jax.eval_shape(init, jax.random.key(0), images(name, channels=channels))


def outputs(name: str, given: jax.ShapeDtypeStruct, **kwargs: Any) -> Any:
    """Shapes of what the network of a row returns."""
    _, apply = flaxarch.functional(flaxarch.create(name))
    return jax.eval_shape(partial(apply, train=False, **kwargs), *shapes(name), given)[0]


def is_logits(name: str, x: Any, given: jax.ShapeDtypeStruct) -> bool:
    """Whether an array has the shape of logits of these images, or of their pixels, edges left out."""
    row, (num_images, height, width, _) = flaxarch.published(name), given.shape
    is_map = x.ndim == 4 and 0 < x.shape[1] <= height and 0 < x.shape[2] <= width
    return x.shape[0] == num_images and x.shape[-1] == row.num_classes and (x.ndim == 2 or is_map)


@cache
def smallest(name: str) -> int:
    """Height and width of the smallest image, as the error for an image of one pixel names it."""
    with pytest.raises(ValueError, match=SMALLEST) as error:
        outputs(name, square(name, 1))
    found = re.search(SMALLEST, str(error.value))
    assert found is not None
    height, width, *given = (int(number) for number in found.groups())
    assert (height, given) == (width, [1, 1])
    return height


class Changed(NamedTuple):
    path: tuple[str, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]


def changes(before: Any, after: Any) -> list[Changed]:
    """The leaves whose shapes differ, of two trees of the same names."""
    assert jax.tree.structure(before) == jax.tree.structure(after)
    leaves = zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True)
    found = [
        Changed(tuple(str(getattr(key, "key", "")) for key in path), x.shape, y.shape)
        for (path, x), y in leaves
    ]
    return [change for change in found if change.before != change.after]


@each_family
def test_network_has_a_table_of_its_modules(name: str):
    model = flaxarch.create(name)
    table = model.tabulate(
        jax.random.key(0),
        jnp.zeros(images(name).shape),
        train=False,
        depth=1,
        console_kwargs={"width": 400, "force_terminal": False},
    )
    assert type(model).__name__ in table
    assert model.head in table


@each_family
def test_images_of_other_channels_than_those_of_init_are_refused_in_a_sentence(name: str):
    own = flaxarch.published(name).input_shape[2]
    with pytest.raises(ValueError, match=CHANNELS) as error:
        outputs(name, images(name, channels=own + 1))
    found = re.search(CHANNELS, str(error.value))
    assert found is not None
    assert [int(number) for number in found.groups()] == [own, own + 1]


@each_family
def test_images_that_are_no_batch_are_refused_in_a_sentence(name: str):
    with pytest.raises(
        ValueError, match=r"takes a batch of images \(N, H, W, C\), not an array of shape \(8,"
    ):
        outputs(name, jax.ShapeDtypeStruct((8, 8, 3), jnp.float32))


@each_family
def test_smallest_size_that_the_error_names_is_the_smallest_that_runs(name: str):
    size = smallest(name)
    assert is_logits(name, evaluation(name).logits, square(name, size))
    narrow = jax.ShapeDtypeStruct((1, size, *square(name, size - 1).shape[2:]), jnp.float32)
    for given in (square(name, size - 1), narrow):
        with pytest.raises(ValueError, match=SMALLEST):
            outputs(name, given)


@each_family
def test_number_of_classes_changes_the_heads_and_of_channels_the_first_convolution_only(name: str):
    model, row = flaxarch.create(name), flaxarch.published(name)
    params, batch_stats = shapes(name)
    heads = {head.split("/")[0] for head in (model.head, *model.aux_heads)}
    for num_classes, channels in (row.num_classes + 3, 1), (row.num_classes, 4):
        other_params, same_batch_stats = shapes(name, num_classes, channels)
        assert not changes(batch_stats, same_batch_stats)
        changed = changes(params, other_params)
        of_heads = [change for change in changed if change.path[0] in heads]
        of_first = [change for change in changed if change.path[0] not in heads]

        assert {change.path[0] for change in of_heads} == (set() if num_classes == row.num_classes else heads)
        assert all(change.after[-1] - change.before[-1] == 3 for change in of_heads)
        assert all(change.after[:-1] == change.before[:-1] for change in of_heads)

        if channels == row.input_shape[2]:
            assert not of_first
            continue
        assert len({change.path[:-1] for change in of_first}) == 1
        (kernel,) = (change for change in of_first if change.path[-1] == "kernel")
        assert kernel.after[-2] == channels or kernel.after[-1] % channels == 0  # the latter: depthwise


@each_family
def test_bfloat16_network_gives_float32_logits_and_bfloat16_features(name: str):
    logits, maps = traced_in_bfloat16(name)
    assert logits.dtype == jnp.float32
    assert {x.dtype for x in maps.values()} <= {jnp.dtype(jnp.bfloat16)}


@cache
def traced_in_bfloat16(name: str) -> Any:
    """Logits and feature maps, of images `LARGER` pixels higher and wider than the smallest."""
    model = flaxarch.create(name, dtype=jnp.bfloat16)

    def evaluate(params, batch_stats, given):
        variables = {"params": params, "batch_stats": batch_stats}
        return model.apply(variables, given, train=False, mutable=["features"])

    logits, taken = jax.eval_shape(evaluate, *shapes(name), square(name, smallest(name) + LARGER))
    return logits, {int(key.removeprefix("stride")): x for key, x in taken.get("features", {}).items()}


LARGER = 64  # a multiple of all strides


class Evaluation(NamedTuple):
    logits: Any
    maps: dict[int, Any]
    kept: list[bool]  # of the batch statistics, in order: whether they come back as they were


@cache
def evaluation(name: str) -> Evaluation:
    """Of the smallest image; also whether batch statistics, though they might move, do not."""
    model = flaxarch.create(name)
    params, batch_stats = shapes(name)

    def evaluate(batch_stats, params, given):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, moved = model.apply(variables, given, train=False, mutable=["features", "batch_stats"])
        return moved.get("batch_stats", {}), logits, moved.get("features", {})

    jaxpr, (after, logits, maps) = jax.make_jaxpr(evaluate, return_shape=True)(
        batch_stats, params, square(name, smallest(name))
    )
    num_stats = len(jax.tree.leaves(after))
    ins, outs = jaxpr.jaxpr.invars, jaxpr.jaxpr.outvars[:num_stats]
    assert num_stats == len(jax.tree.leaves(batch_stats))
    kept = [before is now for before, now in zip(ins[:num_stats], outs, strict=True)]
    maps = {int(key.removeprefix("stride")): x for key, x in maps.items()}
    return Evaluation(logits, maps, kept)


@each_family
def test_evaluation_leaves_batch_stats_alone(name: str):
    assert all(evaluation(name).kept)


@each_family
def test_feature_maps_have_the_sizes_of_their_strides(name: str):
    maps, (_, larger) = evaluation(name).maps, traced_in_bfloat16(name)
    if not maps:
        with pytest.raises(ValueError, match="has no stages, so no feature pyramid"):
            jax.eval_shape(flaxarch.features(flaxarch.create(name)), *shapes(name), images(name))
        return
    for stride, x in maps.items():
        # at most H / stride, rounded up; less where windows are not padded, as an Inception's
        assert 0 < x.shape[1] == x.shape[2] <= -(-smallest(name) // stride)
        grown = [
            after - before for before, after in zip(x.shape[1:3], larger[stride].shape[1:3], strict=True)
        ]
        assert grown == [LARGER // stride] * 2, f"the map at stride {stride}"


@each_family
def test_training_gives_the_logits_of_each_head_and_moves_all_batch_stats(name: str):
    model: Network = flaxarch.create(name)
    _, apply = flaxarch.functional(model)
    params, batch_stats = shapes(name)

    def train(batch_stats, params, given, key):
        logits, moved = apply(params, batch_stats, given, train=True, key=key)
        return moved, logits

    args = (batch_stats, params, images(name, num_images=2), jax.random.key(0))
    jaxpr, (moved, logits) = jax.make_jaxpr(train, return_shape=True)(*args)
    assert jax.tree.structure(moved) == jax.tree.structure(batch_stats)
    num_stats = len(jax.tree.leaves(moved))
    stays = set(map(id, jaxpr.jaxpr.invars)) & set(map(id, jaxpr.jaxpr.outvars[:num_stats]))
    assert not stays
    aux_logits = ()
    if model.aux_heads:
        logits, aux_logits = logits
        assert 0 < model.aux_weight < 1
    assert len(aux_logits) == len(model.aux_heads)
    for x in (logits, *aux_logits):
        assert is_logits(name, x, images(name, num_images=2))
        assert x.dtype == jnp.float32


@pytest.mark.parametrize("name", WITH_EXITS)
def test_exits_are_given_in_evaluation_where_they_are_asked_for(name: str):
    logits, aux_logits = outputs(name, images(name), exits=True)
    assert len(aux_logits) == len(flaxarch.create(name).aux_heads)
    assert all(is_logits(name, x, images(name)) for x in (logits, *aux_logits))
