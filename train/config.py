"""What a run is: one frozen dataclass, whose fields are the flags of `python -m train`."""

import dataclasses
import difflib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args


class ConfigError(ValueError):
    """A configuration that cannot be run. The message says what is wrong, and what would be right."""


Optimizer = Literal["sgd", "adamw", "lamb", "rmsprop", "muon"]
Schedule = Literal["constant", "step", "cosine", "linear", "polynomial", "exponential", "one_cycle"]
Augment = Literal["none", "crop", "crop_flip"]
DType = Literal["float32", "bfloat16"]
Parallel = Literal["pmap", "mesh"]
Remat = Literal["none", "stage", "all"]


@dataclass(frozen=True)
class Config:
    """Trains a convolutional network. With no flags: a ResNet-20 on scikit-learn's digits, in about a minute.

    The same command continues a run that was stopped, at any instant, to the same parameters bit for bit.
    """

    model: str = "resnet20"
    """Name of the network, one of flaxarch.list_models()."""
    survival_prob: float | None = None
    """Stochastic depth: chance that the last residual block is kept in a step; None: the network's own."""
    dtype: DType = "float32"
    """Type of activations; parameters, batch statistics, logits and loss are float32 at either."""

    weights: Path | None = None
    """Checkpoint to start from, any that flaxarch.load reads; images are normalised as its network's were.
    Where the classes differ in number, the head starts afresh."""
    freeze: tuple[str, ...] = ()
    """What keeps the values that it starts with: shell patterns of parameters, as layer1_*/conv1/kernel; or
    the word body, for all but the head."""
    freeze_batch_norm: bool = False
    """Batch norm by its running statistics in training too, which stay as they are."""

    data: str = "digits"
    """Name of the data set, or of the form that its files have."""
    data_dir: Path | None = None
    """Where the files of the data set lie."""
    image_size: int | None = None
    """Height and width in pixels to which images are resized; None: as they are."""
    augment: Augment = "none"
    """Training images: as they are; padded by 4 pixels and cropped; or that and mirrored half of the time."""
    skip_unreadable: bool = False
    """Leave out images that do not decode, and say how many, instead of stopping."""
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
    layer_decay: float = 1.0
    """Factor of the learning rate from each module to the one before it, for fine-tuning; 1: none."""
    lookahead_period: int | None = None
    """Lookahead: updates between two of the slow weights; None: no slow weights."""
    lookahead_step: float = 0.5
    """Lookahead: share of the way to the fast weights that the slow ones go."""
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

    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes, in training."""
    seed: int = 0
    """Of parameters, order of the images, augmentation, dropout and stochastic depth."""

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
    eval_every: int = 1
    """Epochs between evaluations on the test images; the end of the run has one too."""
    save_every: int | None = None
    """Steps between checkpoints; None: one at each epoch's end. The end of the run has one too."""
    compilation_cache: bool = True
    """Keep compiled programs for the next start, in JAX_COMPILATION_CACHE_DIR or the user's cache folder."""

    @property
    def run_dir(self) -> Path:
        """The working directory, absolute."""
        return (self.workdir or Path("runs") / f"{self.model}-{self.data}").resolve()


# May differ when a run is continued, for they change neither a parameter nor a row of metrics.
_FREE = (
    "workdir",
    "workers",
    "save_every",
    "compilation_cache",
    "coordinator",
    "num_processes",
    "process_id",
    "distributed",
)

_CHOICES = {
    "optimizer": Optimizer,
    "schedule": Schedule,
    "augment": Augment,
    "dtype": DType,
    "parallel": Parallel,
    "remat": Remat,
}

# Lowest value, highest value; a bound in a tuple of its own is not reached.
_RANGES: dict[str, tuple[float | tuple[float], float | tuple[float]]] = {
    "survival_prob": ((0,), 1),
    "image_size": (1, math.inf),
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
    "label_smoothing": (0, (1,)),
    "seed": (0, 2**32 - 1),
    "batch_norm_devices": (1, math.inf),
    "num_processes": (1, math.inf),
    "process_id": (0, math.inf),
    "log_every": (1, math.inf),
    "eval_every": (1, math.inf),
    "save_every": (1, math.inf),
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
    if config.batch_size % config.accumulate:
        raise ConfigError(
            f"batch_size {config.batch_size} does not fall into {config.accumulate} equal parts; "
            "accumulate has to divide it"
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
    if config.coordinator is None and not (config.num_processes is None and config.process_id is None):
        raise ConfigError("num_processes and process_id need coordinator, the HOST:PORT of process 0")


def claim_workdir(config: Config, *, write: bool = True) -> None:
    """Makes `config.run_dir` this run's folder, with its config.json in it, or finds that it is already.

    Of several processes one writes.

    Raises:
        ConfigError: the folder holds another run. Nothing in it is changed then.
    """
    path = config.run_dir / "config.json"
    mine = _as_json(config)
    if path.exists():
        differing = _differences(_read_json(path), mine)
        if differing:
            raise ConfigError(
                f"{config.run_dir} holds a run of another configuration: {'; '.join(differing)}. "
                "Choose another workdir, or continue that run with its own flags"
            )
        return
    taken = [name for name in ("metrics.jsonl", "last", "best") if (config.run_dir / name).exists()]
    if taken:
        raise ConfigError(
            f"{config.run_dir} holds {', '.join(taken)} but no config.json to tell which run they are of; "
            "choose another workdir"
        )
    if not write:
        return
    try:
        config.run_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(mine, indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"workdir {config.run_dir} cannot be written: {error.strerror}") from error


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that, killed at any instant, it holds either its old text or all of the new one."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _within(value: float, low: float | tuple[float], high: float | tuple[float]) -> bool:
    above = value > low[0] if isinstance(low, tuple) else value >= low
    below = value < high[0] if isinstance(high, tuple) else value <= high
    return above and below


def _range_words(low: float | tuple[float], high: float | tuple[float]) -> str:
    words = f"above {low[0]}" if isinstance(low, tuple) else f"at least {low}"
    if isinstance(high, tuple):
        return f"{words} and finite" if math.isinf(high[0]) else f"{words} and below {high[0]}"
    return words if math.isinf(high) else f"{words} and at most {high}"


def _as_json(config: Config) -> dict[str, Any]:
    fields = dataclasses.asdict(config)
    del fields["workdir"]  # so that the folder can be moved
    return json.loads(json.dumps(fields, default=str))  # as it comes back: no paths, no tuples


def _read_json(path: Path) -> dict[str, Any]:
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(
            f"{path} is not JSON, so that the run there cannot be recognised: {error}"
        ) from error
    if not isinstance(theirs, dict):
        raise ConfigError(f"{path} does not hold a configuration; choose another workdir")
    return theirs


def _differences(theirs: dict[str, Any], mine: dict[str, Any]) -> list[str]:
    """A clause for each field that is not free and differs; a field that one side lacks has its default."""
    defaults = _as_json(Config())
    words = []
    for name in sorted((theirs.keys() | mine.keys()) - set(_FREE)):
        there, here = theirs.get(name, defaults.get(name)), mine.get(name)
        if there != here:
            words.append(f"{name} is {there} there and {here} here")
    return words
