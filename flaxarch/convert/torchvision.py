"""torchvision's names, and those of the torch CIFAR checkpoints that follow them."""

from flaxarch.convert.rules import TORCH, Rules

_DROPPED = (r".*\.num_batches_tracked",)  # batch norm's step counter, of use only with momentum=None

_RESNET = (
    (r"^layer(\d+)_(\d+)", r"layer\1.\2"),
    (r"downsample_conv$", "downsample.0"),
    (r"downsample_bn$", "downsample.1"),
    (r"/", "."),
)
RESNET = Rules("torchvision", TORCH, _RESNET, _DROPPED)

# The CIFAR ResNets of akamaster/pytorch_resnet_cifar10 call the head "linear".
CIFAR_RESNET = Rules("pytorch_resnet_cifar10", TORCH, (*_RESNET, (r"^fc$", "linear")), _DROPPED)
