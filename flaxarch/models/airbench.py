"""airbench: Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", https://arxiv.org/abs/2404.00498.

Seven convolutions (Sec. 2) that were made to be trained in ten epochs, after Page's ResNet-9 and hlb-CIFAR10.
The first, of 2x2 patches, is not learned: its kernel whitens the patches of the training images (Sec. 3.2);
`whitening_kernel` makes it, and the trainer's `--whiten` sets and keeps it. The others start as identities of
their first inputs (Sec. 3.3), batch norm has no scale, and logits are divided by nine.

`airbench95` is wider; `airbench96` wider and deeper, with a residual sum around the last two convolutions of
each block. The authors' code takes images of 32x32 only; here the last pool is over the whole map.
"""

from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from flaxarch.layers import Conventions, ModuleDef, Network, check_images, tap, torch_uniform
from flaxarch.ops import max_pool
from flaxarch.residual import block_gates, residual
from flaxarch.variant import CIFAR10_MEAN, CIFAR10_STD, Variant

gelu = partial(nn.gelu, approximate=False)


def dirac(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """A kernel (h, w, C, features) whose first C features are the C inputs; the others start as torch's."""
    h, w, inputs, features = shape
    kernel = torch_uniform(key, shape, dtype)
    identity = jnp.zeros((h, w, inputs, inputs), dtype).at[h // 2, w // 2].set(jnp.eye(inputs, dtype=dtype))
    return kernel.at[..., : min(inputs, features)].set(identity[..., :features])


def whitening_kernel(images: np.ndarray, kernel_size: int = 2, epsilon: float = 5e-4) -> np.ndarray:
    """The kernel that whitens the patches of `images`, (N, H, W, C) as the network sees them (Sec. 3.2).

    Its features, of which there are 2 h w C, are the eigenvectors of the patches' second moments, each over
    the root of its eigenvalue and `epsilon`, from the largest to the smallest; then the same, negated.
    """
    side = kernel_size
    patches = np.lib.stride_tricks.sliding_window_view(np.asarray(images, np.float64), (side, side), (1, 2))
    flat = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, side * side * images.shape[-1])
    values, vectors = np.linalg.eigh(flat.T @ flat / len(flat))
    scaled = (vectors / np.sqrt(np.maximum(values, 0) + epsilon))[:, ::-1]
    kernel = np.concatenate([scaled, -scaled], axis=1)
    return kernel.reshape(side, side, images.shape[-1], -1).astype(np.float32)


class ConvGroup(nn.Module):
    """A block (Sec. 2, Fig. 2): (N, H, W, C) -> (N, H / 2, W / 2, features)."""

    features: int
    depth: int  # convolutions: 2, or 3 with a residual sum around the last two
    conv: ModuleDef
    norm: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array, gate: jax.Array | None) -> jax.Array:
        conv = partial(self.conv, self.features, (3, 3), padding="SAME")
        x = max_pool(conv(name="conv1")(x), (2, 2), (2, 2))
        x = gelu(self.norm(name="norm1")(x))
        y = self.norm(name="norm2")(conv(name="conv2")(x))
        if self.depth == 2:
            return gelu(y)
        y = self.norm(name="norm3")(conv(name="conv3")(gelu(y)))
        return gelu(residual(x, y, gate))


# Flax's momentum: torch's 0.4, and in airbench96 0.1.
AIRBENCH = Conventions(epsilon=1e-12, momentum=0.6, norm_scale=False, kernel_init=dirac)
AIRBENCH96 = Conventions(epsilon=1e-12, momentum=0.9, norm_scale=False, kernel_init=dirac)


class Airbench(Network):
    """Images (N, H, W, C) -> logits (N, num_classes), float32; H and W at least 9.

    With a depth of 3, `gates` (3,) or (3, N) multiply the branches of the blocks' residual sums.
    """

    widths: tuple[int, int, int]
    depth: int = 2  # convolutions in a block
    whiten_features: int = 24  # of the first convolution: two for each value of a patch
    logit_scale: float = 1 / 9
    survival_prob: float = 1.0  # stochastic depth, with a depth of 3: chance that the last block is kept
    conventions: Conventions = AIRBENCH

    head: ClassVar[str] = "fc"
    whitening: ClassVar[str] = "whiten"  # the module whose kernel whitens, and is 2x2

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, gates: jax.Array | None = None) -> jax.Array:
        check_images(images, 9, "this airbench network")
        if self.depth != 3 and (gates is not None or self.survival_prob != 1):
            raise ValueError(
                "an airbench network without residual sums takes neither gates nor survival_prob"
            )
        conv = self.conventions.conv(self.dtype)
        norm = self.conventions.norm(train, self.dtype, self.axis_name)
        gate = block_gates(self, gates, num_blocks=len(self.widths), train=train)

        whiten = conv(self.whiten_features, (2, 2), padding=0, use_bias=True, name=self.whitening)
        x = gelu(whiten(images.astype(self.dtype)))
        for i, features in enumerate(self.widths):
            x = ConvGroup(features, self.depth, conv, norm, name=f"group{i + 1}")(x, gate[i])
            x = tap(self, 2 ** (i + 1), x)
        x = x.max(axis=(1, 2))
        fc = nn.Dense(self.num_classes, use_bias=False, kernel_init=torch_uniform, name="fc")
        return fc(x) * self.logit_scale  # float32 logits at any dtype


_row = partial(
    Variant,
    source="Jordan 2024, the authors' code",
    input_shape=(32, 32, 3),
    num_classes=10,
    mean=CIFAR10_MEAN,
    std=CIFAR10_STD,
    resize=32,
)
_96 = partial(Airbench, (128, 384, 512), 3, conventions=AIRBENCH96)

# Parameters, batch statistics and multiply-accumulates by arithmetic from the authors' code, without the
# norms' weights, which stay 1 there. Its 0.36, 1.4 and 4.9 PFLOP are six times the MACs of each image shown.
VARIANTS = {
    "airbench94": _row(
        partial(Airbench, (64, 256, 256)), num_params=1_971_640, num_batch_stats=2_304, macs=118_147_360
    ),
    "airbench95": _row(
        partial(Airbench, (128, 384, 384)), num_params=4_604_728, num_batch_stats=3_584, macs=301_560_864
    ),
    "airbench96": _row(_96, num_params=9_915_704, num_batch_stats=6_144, macs=451_967_264),
}
