"""Runs torch's networks: torchvision's, timm's, and modules of ours after the papers. Needs torch."""

from typing import Any

import numpy as np
import timm  # pyright: ignore[reportMissingImports]
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
import torchvision  # pyright: ignore[reportMissingImports]

from tests.golden import fill
from tests.golden.case import Case
from tests.golden.outputs import Evaluation, Training


def versions() -> str:
    return f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}"


def shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """All tensors of a network's state dict."""
    with torch.device("meta"):
        return {key: tuple(x.shape) for key, x in case.build().state_dict().items()}


def filled(case: Case) -> Any:
    """The network in float64, with the formula's tensors, and without dropout."""
    with torch.device("meta"):  # spares the initialisation
        network = case.build().double()
    tensors = fill.tensors({key: tuple(x.shape) for key, x in network.state_dict().items()})
    network.load_state_dict({key: torch.from_numpy(x) for key, x in tensors.items()}, assign=True)
    for module in network.modules():
        if "Dropout" in type(module).__name__:
            module.p = 0.0
        if isinstance(module, torch.nn.Hardsigmoid):  # torch's gradient has 1/6 in float32, even in float64
            module.forward = lambda x: F.relu6(x + 3) / 6
    return network


def _nchw(images: np.ndarray) -> Any:
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def evaluate(case: Case, images: np.ndarray) -> Evaluation:
    """Logits, channels last where they are maps, and the activations after each stage (N, C, H, W)."""
    network = filled(case).eval()
    taken = {}
    for stride, name in case.stages.items():
        module = network.get_submodule(name)
        # a copy: what follows may work in place
        module.register_forward_hook(lambda _, __, x, key=str(stride): taken.update({key: x.clone().numpy()}))
    with torch.no_grad():
        logits = network(_nchw(images)).numpy()
    return Evaluation(logits.transpose(0, 2, 3, 1) if logits.ndim == 4 else logits, taken)


def _cross_entropy(logits: Any, labels: Any) -> Any:
    if logits.ndim == 4:
        labels = labels[:, None, None].expand(-1, *logits.shape[2:])
    return F.cross_entropy(logits, labels)


def train(case: Case, images: np.ndarray, labels: np.ndarray) -> Training:
    """One backward pass in training mode: loss, gradients, and where batch norm's statistics have moved.

    In maps of logits the label of an image is that of all its pixels.
    """
    network, targets = filled(case).train(), torch.from_numpy(labels).long()
    outputs = network(_nchw(images))
    logits, *aux_logits = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = _cross_entropy(logits, targets)
    for aux in aux_logits:
        loss = loss + case.aux_weight * _cross_entropy(aux, targets)
    loss.backward()
    gradients = {key: p.grad.numpy() for key, p in network.named_parameters()}
    statistics = {key: x.numpy() for key, x in network.named_buffers() if x.is_floating_point()}
    return Training(loss.item(), gradients, statistics)
