"""Changes of colour and light."""

import numpy as np

from train.augment.draws import Draws
from train.augment.pictures import brightness, color, contrast, to_array, to_picture

# Principal components of the RGB values of ImageNet's training pixels, in [0, 1]: standard deviations along
# them and, as columns, their directions; as computed by Torch's ResNet training code (fb.resnet.torch, 2016).
LIGHTING_VALUES = np.array([0.2175, 0.0188, 0.0045])
LIGHTING_VECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)


def lighting(images: np.ndarray, draws: Draws, *, std: float = 0.1) -> np.ndarray:
    """Adds to all pixels of an image a multiple, normal with `std`, of each principal colour of ImageNet.

    Krizhevsky et al. 2012 (AlexNet), Sec. 4.1. Images are RGB.
    """
    shift = (std * draws.normal(3) * LIGHTING_VALUES) @ LIGHTING_VECTORS.T
    levels = np.rint(255 * shift).astype(np.int16)
    changed = np.empty_like(images)
    for i, image in enumerate(images):  # one by one: a whole batch of 16-bit levels falls out of the cache
        changed[i] = np.clip(image + levels[i], 0, 255)
    return changed


def color_jitter(images: np.ndarray, draws: Draws, *, strength: float = 0.4) -> np.ndarray:
    """Changes brightness, contrast and saturation in random order, each by a factor within 1 ± strength.

    As torchvision's ColorJitter without a change of hue, and timm's. Factors are not below 0.
    """
    changes = np.maximum(-1.0, strength * (2 * draws.random(3) - 1))
    orders = np.argsort(draws.random(3), axis=-1)
    operations = (brightness, contrast, color)
    changed = np.empty_like(images)
    for i, image in enumerate(images):
        picture = to_picture(image)
        for k in orders[i]:
            picture = operations[k](picture, float(changes[i, k]), ())
        changed[i] = to_array(picture)
    return changed
