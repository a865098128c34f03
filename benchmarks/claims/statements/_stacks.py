"""Stacks of convolutions, to be counted by `flaxarch.cost`."""

import jax
from flax import linen as nn

import flaxarch
from flaxarch.analysis import Cost


class Stack(nn.Module):
    """Images (N, H, W, C) -> (N, H, W, features of the last layer); without biases."""

    layers: tuple[tuple[int, tuple[int, int]], ...]  # features and kernel size

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        del train
        x = images
        for features, kernel_size in self.layers:
            x = nn.Conv(features, kernel_size, use_bias=False)(x)
        return x


def cost(size: int, channels: int, *layers: tuple[int, tuple[int, int]]) -> Cost:
    """What convolutions of (features, kernel size) cost on a map of size x size with so many channels."""
    return flaxarch.cost(Stack(layers), (size, size, channels))
