"""What stochastic depth saves: steps take less time because dropped blocks are not computed."""

import dataclasses
import time
from functools import partial

import jax
import numpy as np

from benchmarks.claims.claim import Check, Claim, Measured, Places
from benchmarks.claims.networks import SMALL, images
from benchmarks.claims.statements._stochastic import LAST
from train.optim import make_optimizer
from train.schedules import make_schedule
from train.step import init_state, make_train_step

DEPTH, WARM_UP, STEPS = 56, 3, 60


def measure(seed: int, places: Places) -> Measured:
    """Seconds of training steps with stochastic depth and without, in turn."""
    data = images(places)
    config = dataclasses.replace(SMALL.training, seed=seed)
    tx = make_optimizer(config, make_schedule(config, 1, config.steps or 1))
    batch = {
        "image": data.train.images[: config.batch_size],
        "label": data.train.labels[: config.batch_size],
        "mask": np.ones(config.batch_size, np.float32),
    }
    steps, states = [], []
    for model in (SMALL.resnet(DEPTH), SMALL.resnet(DEPTH, survival_prob=LAST)):
        step = make_train_step(model, tx, seed=seed, mean=data.mean, std=data.std)
        steps.append(jax.jit(step, donate_argnums=0))
        states.append(jax.jit(partial(init_state, model, tx, seed, data.train.image_shape))())
    seconds = np.zeros((STEPS, 2))
    for i in range(-WARM_UP, STEPS):
        for k in (0, 1):
            start = time.perf_counter()
            states[k], _ = jax.block_until_ready(steps[k](states[k], batch))
            seconds[i, k] = time.perf_counter() - start  # the first few are written over
    constant, stochastic = seconds.T
    return Measured(
        {
            "ratio of mean step times": stochastic.mean() / constant.mean(),
            "seconds, constant": constant.mean(),
            "seconds, stochastic": stochastic.mean(),
        },
        {"constant depth": sorted(1000 * constant), "stochastic depth": sorted(1000 * stochastic)},
    )


CLAIM = Claim(
    "Stochastic depth with survival to 0.5 makes a training step take at most 0.85 of its time.",
    "Huang et al. 2016, Sec. 4 (25 % of the training time)",
    f"ResNet-{DEPTH}, {SMALL.widths} features, 64 images of 16x16: {STEPS} steps of each kind, one after the "
    "other in turn, with a coin for each block and step; a dropped block is a conditional's other side. The "
    "paper's 25 % are those of the expected depth.",
    measure,
    (Check("ratio of mean step times", high=0.85),),
    seeds=3,
    needs=("cifar10",),
    calibrated="the bound, before any run.",
    x="step, from the fastest to the slowest",
    y="milliseconds",
)
