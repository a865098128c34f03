"""VGG: Table 1, the two forms of its head, growing a deep one, names, initial values."""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxarch
from flaxarch.convert import keras, strict, timm, torchvision
from flaxarch.convert.rules import Rules, slots
from flaxarch.models.vgg import VGG, grow
from tests.golden import fill
from tests.reference import random_variables

# Simonyan & Zisserman 2015, Table 1: the layers of each configuration by their kernels
TABLE_1 = {
    "vgg11": "3 3 33 33 33",
    "vgg11_lrn": "3 3 33 33 33",
    "vgg13": "33 33 33 33 33",
    "vgg16_c": "33 33 331 331 331",
    "vgg16": "33 33 333 333 333",
    "vgg19": "33 33 3333 3333 3333",
}
SMALL = VGG((1, 1, 2), (3, 3, 3), (4, 8, 8), hidden_sizes=(16, 16), map_size=2, num_classes=5)
DEEP = SMALL.clone(stage_sizes=(2, 1, 3))


def create(name: str) -> VGG:
    model = flaxarch.create(name)
    assert isinstance(model, VGG)
    return model


def shapes(model: VGG, size: int = 224) -> dict[str, Any]:
    init, _ = flaxarch.functional(model)
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    params, batch_stats = jax.eval_shape(init, jax.random.key(0), images)
    return {"params": params, "batch_stats": batch_stats}


def logits(model: VGG, params: Any, images: jax.Array) -> jax.Array:
    return flaxarch.functional(model).apply(params, {}, images, train=False)[0]


@pytest.mark.parametrize("name", TABLE_1)
def test_layers_are_those_of_table_1(name: str):
    params = shapes(create(name))["params"]
    stages = [[params[conv]["kernel"] for conv in stage] for stage in create(name).conv_names()]
    assert " ".join("".join(str(kernel.shape[0]) for kernel in stage) for stage in stages) == TABLE_1[name]
    widths = [{kernel.shape[3] for kernel in stage} for stage in stages]
    assert widths == [{64}, {128}, {256}, {512}, {512}]
    dense = [params[name]["kernel"].shape for name in ("fc6", "fc7", "fc8")]
    assert dense == [(7, 7, 512, 4096), (1, 1, 4096, 4096), (1, 1, 4096, 1000)]


@pytest.mark.parametrize("name", ["vgg11", "vgg16_c", "vgg19_bn", "vgg16_keras"])
def test_each_stage_halves_the_image(name: str):
    model = create(name)
    images = jax.ShapeDtypeStruct((2, 224, 192, 3), jnp.float32)
    variables = shapes(model)
    maps = jax.eval_shape(flaxarch.features(model), variables["params"], variables["batch_stats"], images)
    assert {stride: x.shape for stride, x in maps.items()} == {
        1: (2, 224, 192, 64),
        2: (2, 112, 96, 128),
        4: (2, 56, 48, 256),
        8: (2, 28, 24, 512),
        16: (2, 14, 12, 512),
        32: (2, 7, 6, 512),
    }


def test_fully_convolutional_head_averages_the_dense_one_over_all_places():
    params, _ = random_variables(SMALL)
    images = jax.random.normal(jax.random.key(0), (2, 24, 32, 3))
    last = jax.jit(flaxarch.features(SMALL))(params, {}, images)[8]  # (2, 3, 4, 8)

    def dense(x: jax.Array) -> jax.Array:
        x = x.reshape(2, -1)
        for name in ("fc6", "fc7", "fc8"):
            kernel = params[name]["kernel"]
            x = x @ kernel.reshape(-1, kernel.shape[-1]) + params[name]["bias"][None]
            x = x if name == "fc8" else jax.nn.relu(x)
        return x

    places = [last[:, i : i + 2, j : j + 2] for i in range(2) for j in range(3)]
    expected = sum(map(dense, places)) / 6
    found = logits(SMALL.clone(fully_convolutional=True), params, images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_both_heads_are_one_at_the_size_of_training_and_below():
    params, _ = random_variables(SMALL)
    for height, width in (16, 16), (8, 11):
        images = jax.random.normal(jax.random.key(0), (2, height, width, 3))
        dense = logits(SMALL, params, images)
        np.testing.assert_allclose(
            logits(SMALL.clone(fully_convolutional=True), params, images), dense, rtol=1e-5, atol=1e-6
        )


def test_parameters_do_not_depend_on_the_size_of_the_images():
    model = create("vgg11").clone(fully_convolutional=True)
    assert shapes(model, 224) == shapes(model, 320) == shapes(create("vgg11"), 32)


def test_a_lrn_normalises_the_first_map_with_an_undivided_alpha():
    params, _ = random_variables(SMALL)
    images = 100 * jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
    plain = np.asarray(flaxarch.features(SMALL)(params, {}, images)[1], np.float64)
    found = flaxarch.features(SMALL.clone(lrn=True))(params, {}, images)[1]
    squares = np.pad(plain**2, ((0, 0), (0, 0), (0, 0), (2, 2)))
    total = sum(squares[..., i : i + 4] for i in range(5))
    np.testing.assert_allclose(found, plain / (2 + 1e-4 * total) ** 0.75, rtol=1e-4)


def trained(model: VGG, channels: int = 3) -> dict[str, Any]:
    params, batch_stats = random_variables(model, channels)
    return {"params": params, "batch_stats": batch_stats}


def test_growing_copies_four_convolutions_and_the_head_and_draws_the_rest():
    shallow = trained(SMALL)
    grown = grow(SMALL, shallow, DEEP, jax.random.key(0))
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, shapes(DEEP, 16))
    copied = {"conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8"}
    for name in copied:
        chex.assert_trees_all_equal(grown["params"][name], shallow["params"][name])
    drawn = {name: x for name, x in grown["params"].items() if name not in copied}
    assert drawn.keys() == {"conv1_2", "conv3_3"}
    for layer in drawn.values():
        assert not layer["bias"].any()
        assert abs(layer["kernel"].std() / 1e-2 - 1) < 0.15
        assert abs(layer["kernel"].mean()) < 2e-3
    kernel = grow(SMALL, shallow, DEEP, jax.random.key(0), std=0.1)["params"]["conv3_3"]["kernel"]
    np.testing.assert_allclose(kernel, 10 * drawn["conv3_3"]["kernel"], rtol=1e-5)


def test_growing_from_configuration_a_takes_its_first_four_convolutions_only():
    a, e = create("vgg11"), create("vgg19")
    narrow = {"widths": (4, 4, 4, 4, 4), "hidden_sizes": (8, 8)}
    a, e = a.clone(**narrow), e.clone(**narrow)
    shallow = trained(a)
    grown = grow(a, shallow, e, jax.random.key(0))["params"]
    same = {
        name
        for name in shallow["params"]
        if np.array_equal(grown[name]["kernel"], shallow["params"][name]["kernel"])
    }
    assert same == {"conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8"}


def test_growing_is_a_function_of_its_key():
    shallow = trained(SMALL, channels=1)
    grown = [grow(SMALL, shallow, DEEP, jax.random.key(seed)) for seed in (0, 0, 1)]
    chex.assert_trees_all_equal(grown[0], grown[1])
    kernels = [tree["params"]["conv1_2"]["kernel"] for tree in grown]
    assert not np.array_equal(kernels[0], kernels[2])
    assert grown[0]["params"]["conv1_1"]["kernel"].shape == (3, 3, 1, 4)


def test_growing_with_batch_norm_copies_the_norms_of_the_copied_layers():
    shallow, deep = SMALL.clone(batch_norm=True), DEEP.clone(batch_norm=True)
    variables = trained(shallow)
    grown = grow(shallow, variables, deep, jax.random.key(0))
    for collection in ("params", "batch_stats"):
        chex.assert_trees_all_equal(grown[collection]["bn3_1"], variables[collection]["bn3_1"])
    assert bool((grown["params"]["bn1_2"]["scale"] == 1).all())
    assert bool((grown["batch_stats"]["bn1_2"]["var"] == 1).all())
    assert not grown["batch_stats"]["bn1_2"]["mean"].any()


@pytest.mark.parametrize(
    ("deep", "message"),
    [
        (DEEP.clone(num_classes=7), r"fc8/\w+ of the deep network, \(.*7,?\), .* but is \(.*5,?\) there"),
        (DEEP.clone(widths=(4, 6, 8)), r"conv2_1/\w+ of the deep network, .* but is .* there"),
        (DEEP.clone(batch_norm=True), r"bn1_1/\w+ of the deep network, \(4,\), .* is not there"),
        (DEEP.clone(stage_sizes=(2, 1, 1)), "the deep network has no conv3_2 to take the shallow one's"),
    ],
    ids=["classes", "widths", "norms", "shallower"],
)
def test_growing_into_a_network_that_does_not_fit_is_refused_in_a_sentence(deep: VGG, message: str):
    with pytest.raises(ValueError, match=message):
        grow(SMALL, trained(SMALL), deep, jax.random.key(0))


def test_dropout_is_for_training_and_for_the_hidden_dense_layers_only():
    params, _ = random_variables(SMALL)
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    apply = jax.jit(flaxarch.functional(SMALL).apply, static_argnames="train")
    first, again, other = (
        apply(params, {}, images, train=True, key=jax.random.key(seed))[0] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    none = SMALL.clone(hidden_sizes=())
    params, _ = random_variables(none)
    flaxarch.functional(none).apply(params, {}, images, train=True)  # nothing is random: needs no key
    for name in ("vgg16_keras", "vgg16_bn_cifar"):
        assert create(name).dropout_rate == 0


@pytest.mark.parametrize(
    ("name", "last"), [("vgg16", 28), ("vgg16_bn", 40), ("vgg19", 34), ("vgg19_bn", 49), ("vgg11", 18)]
)
def test_torch_names_count_relus_norms_and_pools(name: str, last: int):
    model = create(name)
    for rules in torchvision.vgg(model), timm.vgg(model):
        names = [slot.name for slot in slots(shapes(model), rules)]
        convs = [name for name in names if name.endswith("weight") and "features" in name]
        norms = 1 if name.endswith("bn") else 0
        assert max(int(name.split(".")[1]) for name in convs) == last + norms
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "rules", [torchvision.vgg(SMALL), timm.vgg(SMALL), keras.VGG], ids=lambda rules: rules.source
)
def test_weights_read_from_each_source_are_the_weights_written_for_it(rules: Rules):
    variables = trained(SMALL)
    tensors = {
        slot.name: slot.to_source(leaf)
        for slot, leaf in zip(slots(variables, rules), jax.tree.leaves(variables), strict=True)
    }
    chex.assert_trees_all_equal(strict.fill(shapes(SMALL, 16), tensors, rules, what="x"), variables)


def test_dense_layers_are_read_in_the_order_in_which_the_source_flattens():
    tree = {"params": {"fc6": {"kernel": np.zeros((2, 2, 8, 16))}}}
    (torch,), (of_keras,) = slots(tree, torchvision.vgg(SMALL)), slots(tree, keras.VGG)
    tensor = fill.tensor("x.weight", (16, 8 * 2 * 2))
    kernel = torch.from_source(tensor)
    x = fill.images(1, 2, 2, 8)
    expected = tensor @ x[0].transpose(2, 0, 1).ravel()
    np.testing.assert_allclose(np.einsum("hwc,hwco->o", x[0], kernel), expected, rtol=1e-12)
    np.testing.assert_array_equal(of_keras.to_source(kernel).reshape(kernel.shape), kernel)


def initial(model: VGG, **fields: Any) -> Any:
    """Its initial parameters, with two convolutions of 64 features and two dense layers."""
    sizes = {"stage_sizes": (1, 1), "last_kernels": (3, 3), "widths": (64, 64), "map_size": 2}
    init = flaxarch.functional(model.clone(**sizes, hidden_sizes=(256,), **fields)).init
    return jax.jit(init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))[0]


def test_initial_values_are_torchvisions():
    params = initial(create("vgg16"))
    he = math.sqrt(2 / (9 * 64))
    assert abs(params["conv2_1"]["kernel"].std() / he - 1) < 0.05
    assert abs(params["fc6"]["kernel"].std() / 0.01 - 1) < 0.05
    assert abs(params["fc8"]["kernel"].std() / 0.01 - 1) < 0.05
    assert not any(layer["bias"].any() for layer in params.values())


@pytest.mark.parametrize(
    ("name", "bounds", "bias"),
    [
        # Glorot's bound is that of the dense layer, not of a convolution with 4 places of outputs
        ("vgg16_keras", {"conv2_1": math.sqrt(6 / (9 * 128)), "fc6": math.sqrt(6 / (4 * 64 + 256))}, 0.0),
        ("vgg16_bn_cifar", {"conv2_1": (9 * 64) ** -0.5, "fc6": (4 * 64) ** -0.5, "fc8": 256**-0.5}, 0.7),
    ],
)
def test_initial_values_are_uniform_within_the_sources_bounds(name: str, bounds: dict, bias: float):
    params = initial(create(name))
    for layer, bound in bounds.items():
        assert 0.97 * bound < jnp.abs(params[layer]["kernel"]).max() <= bound
        assert bias * bound <= jnp.abs(params[layer]["bias"]).max() <= (bound if bias else 0)
