"""What a run is: one frozen dataclass, whose fields are the flags of `python -m train`."""

import difflib
import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args


class ConfigError(ValueError):
    """A configuration that cannot be run. The message says what is wrong, and what would be right."""


Optimizer = Literal["sgd", "adamw", "lamb", "rmsprop", "muon"]
Schedule = Literal["constant", "step", "cosine", "linear", "polynomial", "exponential", "one_cycle"]
Augment = Literal[
    "none", "flip", "crop", "crop_flip", "crop_alternating_flip", "inception_crop", "inception_crop_flip"
]
Policy = Literal["none", "randaugment", "randaugment_timm", "trivialaugment", "autoaugment_cifar10"]
Loss = Literal["cross_entropy", "bce"]
DType = Literal["float32", "bfloat16"]
Parallel = Literal["pmap", "mesh"]
Remat = Literal["none", "stage", "all"]
Views = Literal["one", "flip", "flip_shift"]


@dataclass(frozen=True)
class Config:
    """Trains a convolutional network. With no flags: a ResNet-20 on scikit-learn's digits, in about a minute.

    The same command continues a run that was stopped, at any instant, to the same parameters bit for bit.
    """

    recipe: str | None = None
    """Published training whose values stand in place of the defaults below; train/recipes.py has them all."""
    model: str = "resnet20"
    """Name of the network, one of flaxarch.list_models()."""
    survival_prob: float | None = None
    """Stochastic depth: chance that the last residual block is kept in a step; None: the network's own."""
    dropout_rate: float | None = None
    """Chance that a unit is dropped in a step, where the network drops any; None: the network's own."""
    ramp_epochs: float = 0.0
    """Epochs in which the chances to drop units and blocks rise in a line from 0 to their values."""
    dtype: DType = "float32"
    """Type of activations; parameters, batch statistics, logits and loss are float32 at either."""
    scan: bool = False
    """Run each stage's blocks of one shape as a loop, which compiles as soon as one of them; for ResNets."""

    weights: Path | None = None
    """Checkpoint to start from, any that flaxarch.load reads; images are normalised as its network's were.
    Where the classes differ in number, the head starts afresh."""
    freeze: tuple[str, ...] = ()
    """What keeps the values that it starts with: shell patterns of parameters, as layer1_*/conv1/kernel; or
    the word body, for all but the head."""
    freeze_batch_norm: bool = False
    """Batch norm by its running statistics in training too, which stay as they are."""
    whiten: bool = False
    """Make the kernel of the network's first convolution whiten the patches of the training images, and keep
    it so; for networks that have a layer for this, as airbench94."""
    whiten_bias_epochs: float | None = None
    """Epochs in which the bias of that layer is trained; None: all."""

    data: str = "digits"
    """Name of the data set, or of the form that its files have."""
    data_dir: Path | None = None
    """Where the files of the data set lie."""
    image_size: int | None = None
    """Height and width in pixels to which images are resized; None: as they are."""
    augment: Augment = "none"
    """Training images: as they are; mirrored half of the time; padded and cropped; both, where alternating
    mirrors an image in every other epoch; or Szegedy's crops, of a random part of the whole image."""
    crop_padding: int = 4
    """Pixels that crop adds on each side; black, or the image's mirror image with crop_reflect."""
    crop_reflect: bool = False
    """Pad with pixels of the image instead of black ones."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest share of the image's area in a crop of inception_crop."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width over height of a crop of inception_crop."""
    augment_policy: Policy = "none"
    """Operations on training images: RandAugment with torchvision's magnitudes or timm's (inc1),
    TrivialAugment Wide, or the policy that AutoAugment found for CIFAR-10."""
    policy_ops: int = 2
    """Of RandAugment: operations on an image, one after the other."""
    policy_magnitude: float = 9.0
    """Of RandAugment: strength, of at most 30 (torchvision's) or 10 (timm's)."""
    policy_magnitude_std: float = 0.0
    """Of RandAugment: standard deviation of the strength from one operation to the next."""
    color_jitter: float = 0.0
    """Brightness, contrast and saturation are multiplied by factors that differ from 1 by at most this."""
    lighting_std: float = 0.0
    """AlexNet's lighting noise along ImageNet's principal colours: standard deviation; 0.1 in the paper."""
    cutout_size: int = 0
    """Side in pixels of a square anywhere in each image that has the mean colour; 0: none."""
    erase_probability: float = 0.0
    """Chance that a random rectangle of an image is erased (Zhong et al. 2017)."""
    erase_noise: bool = False
    """Erase with random pixels, as the paper's best, and not with the mean colour."""
    skip_unreadable: bool = False
    """Leave out images that do not decode, and say how many, instead of stopping."""
    validation_share: float = 0.0
    """Share of each class's training images that is held back for the evaluations during the run and for
    best/; the test images, if there are any, are then met once, at the end. 0: evaluations are on these."""
    train_share: float = 1.0
    """Share of each class's training images, less those for validation, that is trained on."""
    balanced_classes: bool = False
    """Draw as many images of each class, with replacement, however many of it there are."""
    repeated_augmentation: int = 1
    """Copies of each of its images in a batch, each augmented anew (Hoffer et al. 2020); an epoch keeps its
    number of updates, and so meets fewer images."""
    workers: int = 0
    """Processes that load and augment; 0: threads of this one. Changes no batch."""

    epochs: int = 20
    """Passes over the training images, each less the rest that does not fill a batch."""
    steps: int | None = None
    """Number of updates, in place of epochs."""
    batch_size: int = 64
    """Images in an update, over all devices and processes."""
    remat: Remat = "none"
    """What a backward pass computes anew, to save memory: nothing; all but the ends of stages; or all."""
    accumulate: int = 1
    """Parts of a batch that are computed one after the other, for their sum to make one update."""

    optimizer: Optimizer = "sgd"
    """torch's SGD; AdamW; LAMB; TensorFlow's RMSProp; or Muon, with AdamW for all but convolutions."""
    momentum: float = 0.9
    """Momentum of SGD in torch's sense, of RMSProp in TensorFlow's, and of Muon; 0: none."""
    nesterov: bool = True
    """Nesterov's form of momentum."""
    beta1: float = 0.9
    """Of AdamW and LAMB: share of the old mean of gradients."""
    beta2: float = 0.999
    """Of AdamW and LAMB: share of the old mean of squares."""
    rms_decay: float = 0.9
    """Of RMSProp: share of the old mean of squares."""
    epsilon: float | None = None
    """What AdamW, LAMB and RMSProp add ahead of a division; None: 1e-8, 1e-6 and 1e-10."""
    weight_decay: float = 5e-4
    """Share of each kernel that is added to its gradient (SGD, RMSProp), or taken off it at the learning
    rate (the others); biases and batch-norm parameters are left alone."""
    decay_all: bool = False
    """Decay biases and batch-norm parameters too, as the authors of DenseNet did."""
    clip_norm: float | None = None
    """Largest norm of all gradients together; longer ones are scaled down to it."""
    norm_bias_scale: float = 1.0
    """Of SGD: factor of the learning rate of batch norm's biases, which leaves their decay as it is."""
    layer_decay: float = 1.0
    """Factor of the learning rate from each module to the one before it, for fine-tuning; 1: none."""
    lookahead_period: int | None = None
    """Lookahead: updates between two of the slow weights; None: no slow weights."""
    lookahead_step: float = 0.5
    """Lookahead: share of the way to the fast weights that the slow ones go."""
    lookahead_power: float = 0.0
    """Lookahead: that share falls from 1 to lookahead_step with this power of the updates made; 0: is it from
    the first."""
    sam_radius: float = 0.0
    """Sharpness-aware minimisation: the gradient is taken at this distance uphill; 0: at the weights."""
    ema_decay: float | None = None
    """Keep a moving average of parameters and batch statistics, with this share of the old one, and test it
    too; None: no average."""

    skip_nonfinite: int = 0
    """Updates that a run may leave out because their loss or gradient is not finite; more end it."""

    learning_rate: float = 0.1
    """Largest learning rate of the schedule."""
    schedule: Schedule = "one_cycle"
    """Rate after the warm-up: constant; multiplied by step_factor at step_shares of the steps; falling to
    end_learning_rate as a cosine, a line or a power of one; multiplied by decay_rate every decay_epochs; or
    torch's OneCycleLR."""
    warmup_epochs: float = 0.0
    """Epochs in which the rate rises linearly to learning_rate; one_cycle has its own."""
    warmup_start: float = 0.0
    """Share of learning_rate at which the warm-up begins."""
    end_learning_rate: float = 0.0
    """Where cosine, linear and polynomial end, and below which exponential does not fall."""
    step_shares: tuple[float, ...] = (0.5, 0.75)
    """Of step: after which shares of the steps the rate changes; He et al. 2016, at 32k and 48k of 64k."""
    step_factor: float = 0.1
    """Of step: by what the rate is multiplied."""
    decay_power: float = 2.0
    """Of polynomial: the power."""
    decay_rate: float = 0.94
    """Of exponential: by what the rate is multiplied; 0.94 every two epochs: Szegedy et al. 2016."""
    decay_epochs: float = 2.0
    """Of exponential: epochs between two changes."""

    loss: Loss = "cross_entropy"
    """Of the classes together, as a softmax; or binary cross-entropy of each class, averaged over them."""
    bce_threshold: float | None = None
    """Of bce: targets above this are 1, others 0; None: targets as they are."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes, in training."""
    mixup_alpha: float = 0.0
    """Mix pairs of images, and their labels, by a share from Beta(alpha, alpha) for each batch; 0: never."""
    cutmix_alpha: float = 0.0
    """Paste a part of another image, with a share of the area drawn likewise; 0: never."""
    mix_probability: float = 1.0
    """Chance that a batch is mixed or pasted at all."""
    cutmix_share: float = 0.5
    """Where both are wanted: share of these batches that is pasted."""
    teacher: Path | None = None
    """Checkpoint of a network whose outputs are learned too, any that flaxarch.load reads."""
    teacher_model: str | None = None
    """Name of the teacher's network, where its file does not tell."""
    distil_weight: float = 0.9
    """Weight of the teacher's outputs in the loss; that of the labels is the rest."""
    distil_temperature: float = 4.0
    """By which the logits of both are divided (Hinton et al. 2015)."""
    seed: int = 0
    """Of parameters, order of the images, augmentation, mixing, dropout and stochastic depth."""

    parallel: Parallel = "pmap"
    """How a step is spread over the devices: a program on each, or one program over a mesh of them."""
    shard_params: bool = False
    """With mesh: keep a share of parameters and optimizer on each device, in place of all on every one."""
    batch_norm_devices: int | None = None
    """How many devices take batch statistics together (pmap only); None: all. The mean over all is tested."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where a run has several processes."""
    num_processes: int | None = None
    """Number of processes; None, as process_id may be: as the cluster (Slurm, GKE, TPU) says."""
    process_id: int | None = None
    """Number of this process, from 0."""
    distributed: bool = False
    """Several processes, all as the cluster says; implied by coordinator."""

    workdir: Path | None = None
    """Folder for checkpoints, metrics and configuration; None: runs/MODEL-DATA."""
    log_every: int = 50
    """Steps between rows of training metrics; an epoch's end has one too."""
    test_views: Views = "one"
    """Of an image that is tested: itself; the mean logits of it and its mirror image; or of these and of both
    moved by a pixel to each of two corners."""
    eval_every: int = 1
    """Epochs between evaluations on the test images; the end of the run has one too."""
    save_every: int | None = None
    """Steps between checkpoints; None: one at each epoch's end. The end of the run has one too."""
    keep_best: int = 1
    """Networks to keep in best/ in the workdir: those of the most accurate evaluations."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard too, to tensorboard/ in the workdir; needs tensorboardX."""
    profile: int = 0
    """Steps to write a trace of, to profile/ in the workdir, from the tenth of a session on; 0: none."""
    compilation_cache: bool = True
    """Keep compiled programs for the next start, in JAX_COMPILATION_CACHE_DIR or the user's cache folder."""

    @property
    def run_dir(self) -> Path:
        """The working directory, absolute."""
        return (self.workdir or Path("runs") / f"{self.model}-{self.data}").resolve()


_CHOICES = {
    "optimizer": Optimizer,
    "schedule": Schedule,
    "augment": Augment,
    "augment_policy": Policy,
    "loss": Loss,
    "dtype": DType,
    "parallel": Parallel,
    "remat": Remat,
    "test_views": Views,
}

# Lowest value, highest value; a bound in a tuple of its own is not reached.
_RANGES: dict[str, tuple[float | tuple[float], float | tuple[float]]] = {
    "survival_prob": ((0,), 1),
    "dropout_rate": (0, (1,)),
    "ramp_epochs": (0, (math.inf,)),
    "image_size": (1, math.inf),
    "crop_padding": (0, math.inf),
    "policy_ops": (1, math.inf),
    "policy_magnitude": (0, 30),
    "policy_magnitude_std": (0, (math.inf,)),
    "color_jitter": (0, (math.inf,)),
    "lighting_std": (0, (math.inf,)),
    "cutout_size": (0, math.inf),
    "erase_probability": (0, 1),
    "validation_share": (0, (1,)),
    "train_share": ((0,), 1),
    "repeated_augmentation": (1, math.inf),
    "workers": (0, math.inf),
    "epochs": (1, math.inf),
    "steps": (1, math.inf),
    "batch_size": (1, math.inf),
    "skip_nonfinite": (0, math.inf),
    "accumulate": (1, math.inf),
    "beta1": (0, (1,)),
    "beta2": (0, (1,)),
    "rms_decay": (0, (1,)),
    "epsilon": (0, (math.inf,)),
    "clip_norm": ((0,), (math.inf,)),
    "layer_decay": ((0,), 1),
    "lookahead_period": (1, math.inf),
    "lookahead_step": ((0,), 1),
    "lookahead_power": (0, (math.inf,)),
    "whiten_bias_epochs": (0, (math.inf,)),
    "norm_bias_scale": ((0,), (math.inf,)),
    "warmup_start": (0, 1),
    "sam_radius": (0, (math.inf,)),
    "ema_decay": (0, (1,)),
    "learning_rate": ((0,), (math.inf,)),
    "end_learning_rate": (0, (math.inf,)),
    "step_factor": ((0,), (math.inf,)),
    "decay_power": ((0,), (math.inf,)),
    "decay_rate": ((0,), 1),
    "decay_epochs": ((0,), (math.inf,)),
    "warmup_epochs": (0, (math.inf,)),
    "momentum": (0, (1,)),
    "weight_decay": (0, (math.inf,)),
    "bce_threshold": (0, (1,)),
    "label_smoothing": (0, (1,)),
    "mixup_alpha": (0, (math.inf,)),
    "cutmix_alpha": (0, (math.inf,)),
    "mix_probability": (0, 1),
    "cutmix_share": (0, 1),
    "distil_weight": (0, 1),
    "distil_temperature": ((0,), (math.inf,)),
    "seed": (0, 2**32 - 1),
    "batch_norm_devices": (1, math.inf),
    "num_processes": (1, math.inf),
    "process_id": (0, math.inf),
    "profile": (0, math.inf),
    "log_every": (1, math.inf),
    "eval_every": (1, math.inf),
    "save_every": (1, math.inf),
    "keep_best": (1, math.inf),
}


def validate(config: Config) -> None:
    """ConfigError on the first field that no run could have, whatever its data and devices."""
    for name, literal in _CHOICES.items():
        value, choices = getattr(config, name), get_args(literal)
        if value not in choices:
            near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.0)
            raise ConfigError(
                f"{name} is {value!r}; did you mean {near[0]!r}? It is one of {', '.join(choices)}"
            )
    for name, bounds in _RANGES.items():
        value = getattr(config, name)
        if value is not None and not _within(value, *bounds):
            raise ConfigError(f"{name} is {value}; it has to be {_range_words(*bounds)}")
    if any(not 0 < share < 1 for share in config.step_shares):
        raise ConfigError(f"step_shares are {config.step_shares}; each has to be above 0 and below 1")
    for name, top in (("crop_scale", 1.0), ("crop_ratio", math.inf)):
        low, high = getattr(config, name)
        if not 0 < low <= high <= top or math.isinf(high):
            at_most = f", the larger at most {top:g}" if math.isfinite(top) else ""
            raise ConfigError(f"{name} is {low:g} {high:g}; it has to be two rising numbers above 0{at_most}")
    if config.augment_policy == "randaugment_timm" and config.policy_magnitude > 10:
        raise ConfigError(
            f"policy_magnitude is {config.policy_magnitude:g}; with randaugment_timm it has to be at most 10"
        )
    if config.bce_threshold is not None and config.loss != "bce":
        raise ConfigError("bce_threshold is for loss bce")
    if config.teacher_model is not None and config.teacher is None:
        raise ConfigError("teacher_model needs teacher, the file of its weights")
    if config.batch_size % config.accumulate:
        raise ConfigError(
            f"batch_size {config.batch_size} does not fall into {config.accumulate} equal parts; "
            "accumulate has to divide it"
        )
    if config.batch_size % config.repeated_augmentation:
        raise ConfigError(
            f"batch_size {config.batch_size} does not hold {config.repeated_augmentation} copies of each "
            "image; repeated_augmentation has to divide it"
        )
    if config.schedule == "one_cycle" and config.warmup_epochs:
        raise ConfigError("schedule one_cycle has a warm-up of its own; warmup_epochs has to be 0 with it")
    if config.parallel == "mesh" and config.batch_norm_devices is not None:
        raise ConfigError(
            "parallel mesh computes batch statistics over the whole batch; "
            "for those of fewer devices (batch_norm_devices) use parallel pmap"
        )
    if config.shard_params and config.parallel != "mesh":
        raise ConfigError("shard_params is for parallel mesh; pmap keeps the parameters on every device")
    if config.tensorboard and find_spec("tensorboardX") is None:
        raise ConfigError("tensorboard needs the package tensorboardX, which is not installed")
    if config.coordinator is None and not (config.num_processes is None and config.process_id is None):
        raise ConfigError("num_processes and process_id need coordinator, the HOST:PORT of process 0")


def _within(value: float, low: float | tuple[float], high: float | tuple[float]) -> bool:
    above = value > low[0] if isinstance(low, tuple) else value >= low
    below = value < high[0] if isinstance(high, tuple) else value <= high
    return above and below


def _range_words(low: float | tuple[float], high: float | tuple[float]) -> str:
    words = f"above {low[0]}" if isinstance(low, tuple) else f"at least {low}"
    if isinstance(high, tuple):
        return f"{words} and finite" if math.isinf(high[0]) else f"{words} and below {high[0]}"
    return words if math.isinf(high) else f"{words} and at most {high}"
