"""torch in channels-last layout, eager; bfloat16 by autocast in training, converted in inference."""

import time
from contextlib import nullcontext
from typing import Any

import torch  # pyright: ignore[reportMissingImports]

from benchmarks.speed.cases import NETWORKS, Case
from benchmarks.speed.contenders import Prepared


def prepare(case: Case, path: str, *, compile_it: bool = False) -> Prepared:
    """TensorFloat-32 is allowed for float32, as JAX takes it on such a GPU."""
    del path
    torch.manual_seed(0)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    network = NETWORKS[case.network]
    model = _create(*network.torch.split()).to(device).to(memory_format=torch.channels_last)
    size = 32 if network.cifar else 299 if case.network in ("inception_v3", "xception") else 224
    images = torch.rand(case.batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10 if network.cifar else 1000, (case.batch,), device=device)
    half = case.dtype == "bfloat16"
    training = case.mode == "training"
    model.train(training)
    if half and not training:
        model, images = model.to(torch.bfloat16), images.to(torch.bfloat16)
    called: Any = torch.compile(model) if compile_it else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loss_fn = torch.nn.functional.cross_entropy

    def infer() -> None:
        with torch.inference_mode():
            called(images)

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16) if half else nullcontext():
            outputs = called(images)
            logits, *aux = outputs if isinstance(outputs, tuple) else (outputs,)
            loss = loss_fn(logits, labels)
            for extra in aux:
                loss = loss + 0.3 * loss_fn(extra, labels)
        loss.backward()
        optimizer.step()

    step = train if training else infer

    def run(steps: int) -> None:
        for _ in range(steps):
            step()
        if cuda:
            torch.cuda.synchronize()

    def peak_bytes() -> float | None:
        return torch.cuda.max_memory_allocated() if cuda else None

    start = time.perf_counter()
    run(1)
    first = time.perf_counter() - start
    start = time.perf_counter()
    run(1)
    seconds = first - (time.perf_counter() - start)
    name = torch.cuda.get_device_name() if cuda else "cpu"
    return Prepared(run, seconds, peak_bytes, device=name)


def _create(library: str, name: str) -> Any:
    if library == "torchvision":
        from torchvision import models  # pyright: ignore[reportMissingImports]

        starts = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        return getattr(models, name)(weights=None, **starts)
    if library == "timm":
        import timm  # pyright: ignore[reportMissingImports]

        return timm.create_model(name)
    from pytorchcv.model_provider import get_model  # pyright: ignore[reportMissingImports]

    return get_model(name, pretrained=False)
