"""Recipes: how networks of the lineage were trained, as values of flags, each with its source.

`python -m train --recipe NAME --data-dir DIR` takes them in the place of the defaults; other flags given
stand. Where a recipe has something that the trainer has not, `differs` says so.
"""

import difflib
from dataclasses import replace
from typing import Any, NamedTuple

from train.config import Config, ConfigError


class Recipe(NamedTuple):
    """The flags of one published training, and what it came to."""

    flags: dict[str, Any]  # fields of Config
    source: str
    published: str = ""  # result, as the source prints it; "" where it is of no publication
    differs: str = ""  # what is done otherwise here


_CIFAR: dict[str, Any] = {
    "data": "cifar10",
    "augment": "crop_flip",
    "batch_size": 128,
    "schedule": "step",
    "weight_decay": 1e-4,
    "decay_all": True,
}
_IMAGENET: dict[str, Any] = {"data": "folder", "image_size": 224, "augment": "inception_crop_flip"}
_WIGHTMAN: dict[str, Any] = {
    **_IMAGENET,
    "model": "resnet50",
    "augment_policy": "randaugment_timm",
    "policy_magnitude_std": 0.5,
    "loss": "bce",
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1.0,
    "optimizer": "lamb",
    "batch_size": 2016,  # the paper's 2048, in triples and in even shares of 16 devices
    "schedule": "cosine",
    "warmup_epochs": 5.0,
}

RECIPES = {
    "digits": Recipe(
        {"model": "resnet20", "data": "digits", "epochs": 20},
        "the defaults here",
    ),
    "mnist": Recipe(
        {"model": "lenet5_relu", "data": "mnist", "epochs": 5, "weight_decay": 1e-4},
        "made here, for a minute or two on a laptop",
    ),
    "fashion_mnist": Recipe(
        {
            "model": "resnet8_keras",
            "data": "fashion_mnist",
            "augment": "flip",
            "epochs": 8,
            "batch_size": 128,
            "learning_rate": 0.3,
            "weight_decay": 2e-4,
            "test_views": "flip",
        },
        "made here, for a quarter of an hour on a laptop: 78 thousand parameters",
    ),
    "lecun1998_lenet": Recipe(
        {
            "model": "lenet5",
            "data": "mnist",
            "epochs": 20,
            "batch_size": 32,
            "learning_rate": 0.02,
            "weight_decay": 0.0,
        },
        "LeCun et al. 1998, Sec. III: 20 passes over the training images",
        "MNIST error 0.95 %; 0.8 % with distorted images",
        "SGD with momentum in batches, for stochastic diagonal Levenberg-Marquardt on single images",
    ),
    "lin2014_nin": Recipe(
        {
            **_CIFAR,
            "model": "nin_cifar10",
            "epochs": 200,
            "learning_rate": 0.02,
            "step_shares": (0.6, 0.85),
            "clip_norm": 1.0,
        },
        "Lin et al. 2014, Sec. 4.1-4.2: batch 128, rate divided by ten twice, dropout between mlpconv layers",
        "CIFAR-10 error 10.41 %; 8.81 % with translations and flips",
        "the paper has no rate or number of epochs, and whitens the images; the clipping is ours",
    ),
    "simonyan2015_vgg": Recipe(
        {
            **_IMAGENET,
            "model": "vgg16",
            "lighting_std": 0.1,
            "epochs": 74,
            "batch_size": 256,
            "learning_rate": 0.01,
            "nesterov": False,
            "schedule": "step",
            "step_shares": (0.4, 0.65, 0.85),
            "weight_decay": 5e-4,
        },
        "Simonyan & Zisserman 2015, Sec. 3.1: 74 epochs, the rate divided by ten three times",
        "ImageNet top-1 error 27.0 %, one scale, dense evaluation (D)",
        "the rate falls at fixed shares, not where validation stalls; crops are Inception's",
    ),
    "szegedy2015_googlenet": Recipe(
        {
            **_IMAGENET,
            "model": "googlenet_paper",
            "epochs": 60,
            "batch_size": 256,
            "learning_rate": 0.01,
            "nesterov": False,
            "schedule": "exponential",
            "decay_rate": 0.96,
            "decay_epochs": 8.0,
            "ema_decay": 0.9999,
            "weight_decay": 2e-4,
        },
        "Szegedy et al. 2015, Sec. 6: momentum 0.9, the rate less 4 % every 8 epochs, averaged weights",
        "ImageNet top-5 error 10.07 %, one crop",
        "batch, first rate and number of epochs are not in the paper",
    ),
    "szegedy2016_inception": Recipe(
        {
            **_IMAGENET,
            "model": "inception_v3",
            "image_size": 299,
            "epochs": 100,
            "batch_size": 1600,
            "optimizer": "rmsprop",
            "rms_decay": 0.9,
            "epsilon": 1.0,
            "nesterov": False,
            "learning_rate": 0.045,
            "schedule": "exponential",
            "decay_rate": 0.94,
            "decay_epochs": 2.0,
            "clip_norm": 2.0,
            "label_smoothing": 0.1,
            "ema_decay": 0.9999,
            "weight_decay": 4e-5,
        },
        "Szegedy et al. 2016, Sec. 8: 50 replicas of 32 images, 100 epochs, RMSProp, clipping at 2",
        "ImageNet top-1 error 21.2 %, one crop",
        "synchronous; the weight decay is the released code's",
    ),
    "he2015_cifar": Recipe(
        {**_CIFAR, "model": "resnet56", "steps": 64_000, "nesterov": False},
        "He et al. 2015, Sec. 4.2: 64k updates, the rate divided by ten at 32k and 48k",
        "CIFAR-10 error: ResNet-20 8.75 %, 56 6.97 %, 110 6.43 %",
        "the 110's warm-up at 0.01 is --warmup-epochs 1",
    ),
    "he2016_preact": Recipe(
        {**_CIFAR, "model": "preact_resnet164", "steps": 64_000, "nesterov": False, "warmup_epochs": 1.0},
        "He et al. 2016, appendix: as He et al. 2015, with 400 updates at 0.01 first",
        "CIFAR-10 error: 164 5.46 %, 1001 4.92 %",
        "the warm-up is a line over an epoch",
    ),
    "huang2016_stochastic_depth": Recipe(
        {**_CIFAR, "model": "resnet110_sd", "epochs": 500, "validation_share": 0.1},
        "Huang et al. 2016, Sec. 4: 500 epochs, Nesterov, survival from 1 to 0.5, 5k images held back",
        "CIFAR-10 error 5.25 %, against 6.41 % at constant depth",
    ),
    "zagoruyko2016_wrn": Recipe(
        {
            **_CIFAR,
            "model": "wrn_28_10",
            "crop_reflect": True,
            "epochs": 200,
            "step_shares": (0.3, 0.6, 0.8),
            "step_factor": 0.2,
            "weight_decay": 5e-4,
        },
        "Zagoruyko & Komodakis 2016, Sec. 3: 200 epochs, the rate times 0.2 at 60, 120 and 160, Nesterov",
        "CIFAR-10 error 4.00 %; 3.89 % with dropout",
    ),
    "huang2017_densenet": Recipe(
        {**_CIFAR, "model": "densenet_bc_100_12", "epochs": 300, "batch_size": 64},
        "Huang et al. 2017, Sec. 4.2: 300 epochs, batch 64, Nesterov, the rate over ten at half and 3/4",
        "CIFAR-10 error 4.51 % (0.8M parameters)",
    ),
    "fast_cifar": Recipe(
        {
            "model": "resnet20",
            "data": "cifar10",
            "augment": "crop_flip",
            "batch_size": 128,
            "epochs": 5,
            "learning_rate": 0.3,
        },
        "made here: one cycle at a high rate, for networks of He et al. 2015 on a laptop",
    ),
    "jordan2024_airbench94": Recipe(
        {
            "model": "airbench94",
            "data": "cifar10",
            "augment": "crop_alternating_flip",
            "crop_padding": 2,
            "crop_reflect": True,
            "batch_size": 1024,
            "steps": 475,
            "whiten": True,
            "whiten_bias_epochs": 3.0,
            "learning_rate": 1.5,
            "momentum": 0.85,
            "weight_decay": 0.0153 / 11.5,
            "decay_all": True,
            "norm_bias_scale": 64.0,
            "label_smoothing": 0.2,
            "schedule": "linear",
            "warmup_epochs": 2.27,
            "warmup_start": 0.2,
            "end_learning_rate": 0.105,
            "lookahead_period": 5,
            "lookahead_step": 1 - 0.95**5,
            "lookahead_power": 3.0,
            "test_views": "flip_shift",
        },
        "Jordan 2024 (arXiv:2404.00498), Listing 4 and the authors' code: 9.9 epochs, whitened patches",
        "CIFAR-10 accuracy 94.01 %, mean of 1,000 runs",
        "475 updates of 476, for the last to end on the slow weights; batch statistics are the fast weights'",
    ),
    "torchvision_2021": Recipe(
        {
            **_IMAGENET,
            "model": "resnet50",
            "image_size": 176,
            "augment_policy": "trivialaugment",
            "erase_probability": 0.1,
            "mixup_alpha": 0.2,
            "cutmix_alpha": 1.0,
            "repeated_augmentation": 4,
            "label_smoothing": 0.1,
            "epochs": 600,
            "batch_size": 1024,
            "learning_rate": 0.5,
            "nesterov": False,
            "schedule": "cosine",
            "warmup_epochs": 5.0,
            "warmup_start": 0.01,
            "weight_decay": 2e-5,
            "ema_decay": 0.99998,
        },
        "torchvision's second weights of ResNet-50 (Vryniotis 2021)",
        "ImageNet accuracy 80.858 %, tested at 224 after a resize to 232",
        "the average is updated in each step, not every 32; tested here at the size of training",
    ),
    "timm_a1": Recipe(
        {
            **_WIGHTMAN,
            "policy_magnitude": 7.0,
            "label_smoothing": 0.1,
            "survival_prob": 0.95,
            "repeated_augmentation": 3,
            "epochs": 600,
            "learning_rate": 5e-3,
            "weight_decay": 0.01,
        },
        "Wightman et al. 2021, Table 2, A1",
        "ImageNet accuracy 80.4 %",
    ),
    "timm_a2": Recipe(
        {
            **_WIGHTMAN,
            "policy_magnitude": 7.0,
            "survival_prob": 0.95,
            "repeated_augmentation": 3,
            "epochs": 300,
            "learning_rate": 5e-3,
            "weight_decay": 0.02,
        },
        "Wightman et al. 2021, Table 2, A2",
        "ImageNet accuracy 79.8 %",
    ),
    "timm_a3": Recipe(
        {
            **_WIGHTMAN,
            "image_size": 160,
            "policy_magnitude": 6.0,
            "mixup_alpha": 0.1,
            "epochs": 100,
            "learning_rate": 8e-3,
            "weight_decay": 0.02,
        },
        "Wightman et al. 2021, Table 2, A3",
        "ImageNet accuracy 78.1 %, tested at 224",
        "tested here at the size of training",
    ),
}


def recipe_config(name: str) -> Config:
    """The configuration of a recipe, all of whose fields may be changed. Raises ConfigError on its name."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.0)[0]
        raise ConfigError(f"there is no recipe {name!r}; the nearest is {near!r} (of {', '.join(RECIPES)})")
    return replace(Config(), recipe=name, **RECIPES[name].flags)
