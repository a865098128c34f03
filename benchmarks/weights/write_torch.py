"""Writes files of torchvision, timm and pytorchcv by their own functions. Needs these."""

import argparse
import copy
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import huggingface_hub  # pyright: ignore[reportMissingImports]
import numpy as np
import safetensors.torch
import timm  # pyright: ignore[reportMissingImports]
import timm.utils  # pyright: ignore[reportMissingImports]
import torch  # pyright: ignore[reportMissingImports]

from benchmarks.weights import scratch
from benchmarks.weights.pairs import Pair, pairs
from benchmarks.weights.scratch import Written
from tests.golden import torch_library

State = dict[str, Any]
Write = Callable[[Any, State, Path], str]  # the network, its state dict, where to; gives the file's name


def _zip(network: Any, state: State, folder: Path) -> str:
    torch.save(state, folder / "zip.pth")
    return "zip.pth"


def _legacy(network: Any, state: State, folder: Path) -> str:
    """As files were before torch 1.6, and before 0.4.1 without counters of batches."""
    state = {key: x for key, x in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    return "legacy.pth"


def _data_parallel(network: Any, state: State, folder: Path) -> str:
    """As PyTorch's ImageNet example keeps it."""
    checkpoint = {
        "epoch": 90,
        "arch": "network",
        "state_dict": torch.nn.DataParallel(network).state_dict(),
        "best_acc1": torch.tensor(76.13),
        "optimizer": _optimizer(network).state_dict(),
    }
    torch.save(checkpoint, folder / "model_best.pth.tar")
    return "model_best.pth.tar"


def _lightning(network: Any, state: State, folder: Path) -> str:
    checkpoint = {
        "epoch": 3,
        "global_step": 1200,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"model.{key}": x for key, x in state.items()},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val_loss'}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [_optimizer(network).state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1, "wd": 1e-4},
    }
    torch.save(checkpoint, folder / "epoch=3.ckpt")
    return "epoch=3.ckpt"


def _torchvision_references(network: Any, state: State, folder: Path) -> str:
    """As torchvision's own training script keeps it; the average is another network's."""
    average = torch.optim.swa_utils.AveragedModel(network).state_dict()
    checkpoint = {
        "model": state,
        "optimizer": _optimizer(network).state_dict(),
        "lr_scheduler": {"last_epoch": 1, "_step_count": 2, "_last_lr": [0.1]},
        "epoch": 1,
        "args": argparse.Namespace(model="network", lr=0.1, workers=16),
        "model_ema": {key: x * 2 if x.is_floating_point() else x for key, x in average.items()},
    }
    torch.save(checkpoint, folder / "checkpoint.pth")
    return "checkpoint.pth"


def _timm_saver(network: Any, state: State, folder: Path) -> str:
    """As timm's training script keeps it; the average is another network's."""
    average = timm.utils.ModelEmaV3(network)
    for x in average.module.parameters():
        x.data.mul_(2)
    args = argparse.Namespace(model="network", lr=0.1)
    saver = timm.utils.CheckpointSaver(
        network, _optimizer(network), args, average, checkpoint_dir=str(folder), recovery_dir=str(folder)
    )
    saver.save_checkpoint(0, metric=76.0)
    (folder / "checkpoint-0.pth.tar").unlink()
    return "last.pth.tar"


def _ema_alone(network: Any, state: State, folder: Path) -> str:
    torch.save({"state_dict_ema": state}, folder / "ema.pth")
    return "ema.pth"


def _safetensors(network: Any, state: State, folder: Path) -> str:
    safetensors.torch.save_file(state, folder / "model.safetensors", {"format": "pt"})
    return "model.safetensors"


def _sharded(network: Any, state: State, folder: Path) -> str:
    shards, size = folder / "shards", sum(x.nbytes for x in state.values())
    shards.mkdir()
    huggingface_hub.save_torch_state_dict(state, shards, max_shard_size=size // 3)
    (index,) = shards.glob("*.safetensors.index.json")
    return str(index.relative_to(folder))


def _old_names(network: Any, state: State, folder: Path) -> str:
    """As DenseNet's released files have them still; torchvision renames as it loads."""
    renamed = {key: key for key in state}
    for kind in ("norm", "conv"):
        for i in "12":
            renamed = {
                key: x.replace(f"{kind}{i}", f"{kind}.{i}") if "denselayer" in x else x
                for key, x in renamed.items()
            }
    torch.save({renamed[key]: x for key, x in state.items()}, folder / "old_names.pth")
    return "old_names.pth"


FORMATS: dict[str, Write] = {
    ".pth": _zip,
    ".pth, legacy, without counters": _legacy,
    "DataParallel's names in a trainer's checkpoint": _data_parallel,
    "Lightning": _lightning,
    ".safetensors": _safetensors,
    ".safetensors in parts": _sharded,
    "averaged weights alone": _ema_alone,
}
OF_LIBRARY: dict[str, dict[str, Write]] = {
    "torchvision": {"torchvision's trainer's, with an average": _torchvision_references},
    "timm": {"timm's trainer's, with an average": _timm_saver},
}
HALVES: dict[str, tuple[Any, Write]] = {
    ".safetensors, bfloat16": (torch.bfloat16, _safetensors),
    ".pth, float16": (torch.float16, _zip),
}


def _optimizer(network: Any) -> Any:
    """SGD as it is after a step, with its momentum."""
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    for x in network.parameters():
        optimizer.state[x]["momentum_buffer"] = torch.zeros_like(x)
    return optimizer


def _network(pair: Pair, state: dict[str, np.ndarray] | None = None) -> Any:
    with torch.device("meta"):  # spares the initialisation
        network = pair.case.build()
    if state is None:
        state = scratch.values({key: tuple(x.shape) for key, x in network.state_dict().items()})
    network.load_state_dict({key: torch.from_numpy(x) for key, x in state.items()}, assign=True)
    return network.eval()


def evaluate(network: Any, images: np.ndarray) -> np.ndarray:
    """Logits in float64, of images (N, H, W, C)."""
    network = copy.deepcopy(network).double()
    with torch.no_grad():
        return network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()


def _halves(network: Any, folder: Path) -> Iterator[tuple[str, str, Any, Written]]:
    for name, (dtype, write) in HALVES.items():
        kind = str(dtype).removeprefix("torch.")
        rounded = copy.deepcopy(network).to(dtype)
        (folder / kind).mkdir()
        path = write(rounded, rounded.state_dict(), folder / kind)
        yield name, kind, rounded, Written(f"{kind}/{path}", kind)


def write(pair: Pair, directory: Path) -> None:
    """All files of one network, and its logits."""
    folder = scratch.folder_of(directory, pair)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    network = _network(pair)
    formats = {".pth": _zip}
    if pair.in_every_format:
        formats = FORMATS | OF_LIBRARY.get(pair.library, {})
        if pair.case.builder == "torchvision.models:densenet121":
            formats = formats | {"names from before 2018": _old_names}
    files = {key: Written(make(network, network.state_dict(), folder)) for key, make in formats.items()}
    images = scratch.images_of(pair)
    logits = {"float32": evaluate(network, images)}
    if pair.in_every_format:
        for name, kind, rounded, written in _halves(network, folder):
            files[name], logits[kind] = written, evaluate(rounded, images)
    versions = f"{torch_library.versions()}, pytorchcv {version('pytorchcv')}"
    scratch.describe(folder, versions, files, logits)


def main() -> None:
    """Write the networks that the command line asks for, or all of torch's in every format."""
    args = scratch.arguments(__doc__)
    torch.set_num_threads(1)
    for name, pair in pairs().items():
        is_torch = pair.library != "Keras"
        if name in args.names or (not args.names and is_torch and pair.in_every_format):
            write(pair, args.directory)
            print(name, flush=True)


if __name__ == "__main__":
    main()
