"""From the configuration to what is done to training images, in order."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import numpy as np

from train.augment.colour import color_jitter, lighting
from train.augment.crop import alternating_flip, flip, inception_crop, pad_crop
from train.augment.draws import Augmentation, Draws
from train.augment.erase import cutout, random_erasing
from train.augment.pictures import Fill
from train.augment.policies import RANDAUGMENT_TIMM, auto_augment_cifar10, rand_augment, trivial_augment
from train.config import Config, ConfigError

# Whole images of any sizes to a batch of images (n, H, W, C).
Crop = Callable[[Iterable[np.ndarray], Draws], np.ndarray]


class Augmenter(NamedTuple):
    """All that is done to the images of a batch."""

    changes: tuple[Augmentation, ...] = ()  # one after the other
    crop: Crop | None = None  # of whole images, ahead of all; None: they come at the size of the batch

    def __call__(self, images: np.ndarray, draws: Draws) -> np.ndarray:
        """See `Augmentation`."""
        for change in self.changes:
            images = change(images, draws)
        return images


AUGMENTATIONS = {
    "none": Augmenter(),
    "flip": Augmenter((flip,)),
    "crop": Augmenter((pad_crop,)),  # for digits, whose mirror images are other signs
    "crop_flip": Augmenter((pad_crop, flip)),
    "crop_alternating_flip": Augmenter((pad_crop, alternating_flip)),
    "inception_crop": Augmenter(crop=partial(inception_crop, size=(224, 224))),
    "inception_crop_flip": Augmenter((flip,), partial(inception_crop, size=(224, 224))),
}


def make_augmenter(config: Config, image_shape: tuple[int, int, int], mean: tuple[float, ...]) -> Augmenter:
    """What the configuration asks for, for batches of images of this shape.

    `mean` is that of normalised images' zero, of RGB pixels in [0, 1]: what is painted over has this colour.
    Raises ConfigError where the images do not have the channels that are needed.
    """
    height, width, channels = image_shape
    asked = {
        "augment_policy": config.augment_policy != "none",
        "color_jitter": config.color_jitter > 0,
        "augment inception_crop": config.augment.startswith("inception_crop"),
    }
    for name, is_asked in asked.items():
        if is_asked and channels not in (1, 3):
            raise ConfigError(f"{name} is for grey and RGB images; these have {channels} channels")
    if config.lighting_std and channels != 3:
        raise ConfigError(f"lighting_std is for RGB images; these have {channels} channel(s)")

    named = AUGMENTATIONS[config.augment]
    padded = partial(pad_crop, padding=config.crop_padding, reflect=config.crop_reflect)
    changes: list[Augmentation] = [padded if change is pad_crop else change for change in named.changes]
    crop = named.crop and partial(
        inception_crop, size=(height, width), scale=config.crop_scale, ratio=config.crop_ratio
    )
    mean_colour = tuple(round(255 * x) for x in mean)
    policy = _policy(config, mean_colour)
    if policy is not None:
        changes.append(policy)
    if config.color_jitter:
        changes.append(partial(color_jitter, strength=config.color_jitter))
    if config.lighting_std:
        changes.append(partial(lighting, std=config.lighting_std))
    if config.cutout_size:
        changes.append(partial(cutout, fill=mean_colour, size=config.cutout_size))
    if config.erase_probability:
        chance, noise = config.erase_probability, config.erase_noise
        changes.append(partial(random_erasing, fill=mean_colour, probability=chance, noise=noise))
    return Augmenter(tuple(changes), crop)


def _policy(config: Config, mean_colour: Fill) -> Augmentation | None:
    """Torchvision's policies uncover black, timm's the mean colour, each as its recipes have it."""
    black = (0,) * len(mean_colour)
    number, magnitude, std = config.policy_ops, config.policy_magnitude, config.policy_magnitude_std
    like_torchvision = partial(rand_augment, num_operations=number, magnitude=magnitude, std=std)
    match config.augment_policy:
        case "none":
            return None
        case "randaugment":
            return partial(like_torchvision, fill=black)
        case "randaugment_timm":
            return partial(
                like_torchvision, fill=mean_colour, table=RANDAUGMENT_TIMM, largest=10.0, probability=0.5
            )
        case "trivialaugment":
            return partial(trivial_augment, fill=black)
        case "autoaugment_cifar10":
            return partial(auto_augment_cifar10, fill=black)
