"""Random changes of training images on the host, as uint8 batches (n, H, W, C) on their way to a step."""

from train.augment.build import AUGMENTATIONS, Augmenter, make_augmenter
from train.augment.draws import Augmentation, Draws

__all__ = ["AUGMENTATIONS", "Augmentation", "Augmenter", "Draws", "make_augmenter"]
