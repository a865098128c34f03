"""What is measured: networks, who else has them, and the work they do."""

from typing import Literal, NamedTuple

Mode = Literal["inference", "training"]


class Network(NamedTuple):
    """A row of our registry, and the same network's name elsewhere; None: it is not there."""

    torch: str  # library and name
    keras: str | None = None
    flax_example: str | None = None
    flaxmodels: str | None = None
    cifar: bool = False
    cpu_training_batch: int = 16


NETWORKS = {
    "resnet18": Network("torchvision resnet18", None, "ResNet18", "ResNet18"),
    "resnet50": Network("torchvision resnet50", "ResNet50", "ResNet50", "ResNet50"),
    "resnext50_32x4d": Network("torchvision resnext50_32x4d"),
    "wide_resnet50_2": Network("torchvision wide_resnet50_2"),
    "densenet121": Network("torchvision densenet121", "DenseNet121"),
    "googlenet": Network("torchvision googlenet"),
    "inception_v3": Network("torchvision inception_v3", "InceptionV3"),
    "vgg16_bn": Network("torchvision vgg16_bn"),
    "mobilenet_100": Network("timm mobilenetv1_100", "MobileNet"),
    "mobilenet_v2": Network("torchvision mobilenet_v2", "MobileNetV2"),
    "xception": Network("timm legacy_xception", "Xception"),
    "squeezenet1_1": Network("torchvision squeezenet1_1"),
    "resnet20": Network("pytorchcv resnet20_cifar10", cifar=True, cpu_training_batch=128),
    "resnet110": Network("pytorchcv resnet110_cifar10", cifar=True, cpu_training_batch=128),
    "preact_resnet1001": Network("pytorchcv preresnet1001_cifar10", cifar=True),
    "densenet_bc_100_12": Network("pytorchcv densenet100_k12_bc_cifar10", cifar=True, cpu_training_batch=64),
}
# Contenders, by the names that they have in the report.
PEERS = {
    "kernels": "ours, native kernels",
    "torch": "torch",
    "torch_compile": "torch.compile",
    "keras": "Keras on JAX",
    "flax_example": "Flax's example",
    "flaxmodels": "flaxmodels",
}
# Loops over units of one shape, where a network would take minutes to compile without.
SCANNED = ("preact_resnet1001",)


class Case(NamedTuple):
    """One contender's work: float32 or bfloat16 (parameters stay float32 in training)."""

    network: str
    mode: Mode
    batch: int
    dtype: str

    def __str__(self) -> str:
        return f"{self.network} {self.mode} {self.batch} {self.dtype}"


def cases(network: str, on_cpu: bool) -> list[Case]:
    """The work that a network is measured at."""
    training = NETWORKS[network].cpu_training_batch if on_cpu else 128
    batches = (1, 16) if on_cpu else (1, 256)
    found = []
    for dtype in ("float32", "bfloat16"):
        found += [Case(network, "inference", batch, dtype) for batch in batches]
        found.append(Case(network, "training", training, dtype))
    return found


def contenders(case: Case) -> list[str]:
    """Who has the network, ourselves first."""
    network = NETWORKS[case.network]
    found = ["flaxarch", "kernels", "torch", "torch_compile"]
    found += [name for name in ("keras", "flax_example", "flaxmodels") if getattr(network, name) is not None]
    return found
