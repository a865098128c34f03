"""ShuffleNet v2: shapes of Table 5, the split and the shuffle, initialisers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxarch
from flaxarch.layers import TORCH
from flaxarch.models.shufflenet_v2 import Unit, channel_shuffle
from tests.models.shapes import map_shapes


def test_maps_have_the_shapes_of_table_5():
    assert map_shapes(flaxarch.create("shufflenet_v2_x1_0"), 224, 224, 3) == {
        2: (112, 112, 24),
        4: (56, 56, 24),
        8: (28, 28, 116),
        16: (14, 14, 232),
        32: (7, 7, 1024),
    }


def logits_shape(*images: int) -> tuple[int, ...]:
    model = flaxarch.create("shufflenet_v2_x0_5", num_classes=3)
    logits = jax.eval_shape(
        lambda key: model.init_with_output(key, jnp.zeros(images), train=False)[0], jax.random.key(0)
    )
    return logits.shape


def test_images_of_any_size_from_the_last_maps_stride_have_logits():
    assert logits_shape(2, 32, 45, 3) == (2, 3)
    with pytest.raises(ValueError, match="a ShuffleNet needs images of at least 32x32 pixels, not 45x31"):
        logits_shape(1, 45, 31, 3)


def test_shuffle_deals_the_groups_channels_in_turn():
    x = jnp.arange(6).reshape(1, 1, 1, 6)
    assert channel_shuffle(x, 2).ravel().tolist() == [0, 3, 1, 4, 2, 5]
    assert channel_shuffle(x, 3).ravel().tolist() == [0, 2, 4, 1, 3, 5]
    assert channel_shuffle(channel_shuffle(x, 2), 3).tolist() == x.tolist()


def test_basic_unit_passes_its_first_half_on_untouched():
    x = jax.random.normal(jax.random.key(0), (2, 4, 5, 8))
    conv, norm = TORCH.conv(jnp.float32), TORCH.norm(False, jnp.float32, None)
    unit = Unit(8, conv, norm)
    y = jax.jit(lambda key: unit.init_with_output(key, x)[0])(jax.random.key(1))
    np.testing.assert_array_equal(y[..., ::2], x[..., :4])
    assert not np.allclose(y[..., 1::2], x[..., 4:])


def test_layers_start_as_torchs_do():
    init = flaxarch.create("shufflenet_v2_x1_0").conventions.kernel_init
    for shape, fan_in in (((1, 1, 116, 232), 116), ((3, 3, 1, 464), 9)):
        kernel = np.asarray(init(jax.random.key(0), shape, jnp.float32))
        bound = 1 / math.sqrt(fan_in)
        assert kernel.std() == pytest.approx(bound / math.sqrt(3), rel=0.03)
        assert np.abs(kernel).max() <= bound
