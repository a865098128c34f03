"""Which rules read which family, and which rows a source has released."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from flaxarch.convert import keras, pytorchcv, pytorchcv_inception, segmentation, timm, torchvision
from flaxarch.convert import mobilenet as mobilenet_rules
from flaxarch.convert.rules import Rules
from flaxarch.layers import Network
from flaxarch.models import (
    alexnet,
    bn_inception,
    densenet,
    dpn,
    googlenet,
    inception_resnet,
    inception_v3,
    inception_v4,
    lenet,
    mobilenet,
    mobilenet_v2,
    mobilenet_v3,
    nin,
    preact_resnet,
    resnet,
    senet,
    shufflenet_v2,
    squeezenet,
    unet,
    vgg,
    wide_resnet,
    xception,
)
from flaxarch.variant import IMAGENET_MEAN, IMAGENET_STD


class Source(NamedTuple):
    """One table of rules, the family that it names, and the rows that its files are recognised as.

    Where names depend on more than the family, as the numbers of VGG's layers do, `rules` makes the table for
    a model.
    """

    rules: Rules | Callable[[Any], Rules]
    family: type[Network]
    rows: tuple[str, ...] = ()
    only_rows: bool = False  # other networks there have the same names, and are not those of the family
    preprocessing: dict[str, Any] | None = None  # fields of a row in which the source differs from the rows

    def rules_of(self, model: Network) -> Rules:
        """The table for one model of the family."""
        return self.rules if isinstance(self.rules, Rules) else self.rules(model)


def _of(family_rows: dict, source: str) -> tuple[str, ...]:
    return tuple(name for name, row in family_rows.items() if row.source.startswith(source))


# pytorchcv's networks, all of ImageNet's with one normalisation of the pixels.
_CV = partial(Source, only_rows=True)
_CV_IMAGENET = partial(_CV, preprocessing={"mean": IMAGENET_MEAN, "std": IMAGENET_STD})

SOURCES = (
    Source(
        torchvision.RESNET,
        resnet.ResNet,
        (*_of(resnet.VARIANTS, "torchvision"), "resnext101_32x4d"),  # the last one is timm's
    ),
    Source(torchvision.CIFAR_RESNET, resnet.ResNet, tuple(f"resnet{d}" for d in (20, 32, 44, 56, 110, 1202))),
    Source(keras.RESNET, resnet.ResNet, _of(resnet.VARIANTS, "Keras")),
    Source(keras.RESNET8, resnet.ResNet, ("resnet8_keras",)),
    Source(torchvision.RESNET, wide_resnet.WideResNet),  # in torchvision's manner: it has no such network
    Source(torchvision.INCEPTION_V3, inception_v3.InceptionV3, _of(inception_v3.VARIANTS, "torchvision")),
    Source(keras.INCEPTION_V3, inception_v3.InceptionV3, _of(inception_v3.VARIANTS, "Keras")),
    Source(timm.INCEPTION_V4, inception_v4.InceptionV4, _of(inception_v4.VARIANTS, "timm")),
    Source(timm.INCEPTION_RESNET, inception_resnet.InceptionResNet, _of(inception_resnet.VARIANTS, "timm")),
    Source(keras.INCEPTION_RESNET, inception_resnet.InceptionResNet, _of(inception_resnet.VARIANTS, "Keras")),
    Source(torchvision.DENSENET, densenet.DenseNet, _of(densenet.VARIANTS, "torchvision")),
    Source(torchvision.DENSENET_RELEASED, densenet.DenseNet, _of(densenet.VARIANTS, "torchvision")),
    Source(keras.DENSENET, densenet.DenseNet, _of(densenet.VARIANTS, "Keras")),
    Source(
        timm.SE_RESNET,
        resnet.ResNet,
        tuple(name for name in _of(senet.VARIANTS, "timm") if not name.startswith("legacy")),
    ),
    Source(
        timm.LEGACY_SE_RESNET,
        resnet.ResNet,
        tuple(name for name in senet.VARIANTS if name.startswith("legacy_seres")),
    ),
    Source(timm.LEGACY_SENET154, resnet.ResNet, ("legacy_senet154",)),
    Source(timm.DPN, dpn.DPN, tuple(dpn.VARIANTS)),
    Source(torchvision.GOOGLENET, googlenet.GoogLeNet, _of(googlenet.VARIANTS, "torchvision")),
    Source(torchvision.vgg, vgg.VGG, (*_of(vgg.VARIANTS, "torchvision"), "vgg16_bn_cifar")),
    Source(timm.vgg, vgg.VGG, _of(vgg.VARIANTS, "torchvision")),
    Source(timm.XCEPTION, xception.Xception, ("xception",)),
    Source(keras.XCEPTION, xception.Xception, ("xception_keras",)),
    Source(torchvision.SHUFFLENET_V2, shufflenet_v2.ShuffleNetV2, _of(shufflenet_v2.VARIANTS, "torchvision")),
    Source(segmentation.PYTORCH_UNET, unet.UNet, ("unet_same_bn",)),
    Source(segmentation.SEGMENTATION_MODELS, unet.PyramidUNet, ("unet_resnet18",)),
    Source(keras.VGG, vgg.VGG, _of(vgg.VARIANTS, "Keras")),
    Source(torchvision.BN_INCEPTION, bn_inception.BNInception, ("bn_inception",)),
    Source(torchvision.nin, nin.NiN, tuple(nin.VARIANTS)),
    Source(torchvision.RESNET, preact_resnet.PreActResNet),  # the paper's networks, in torchvision's manner
    Source(timm.PREACT_RESNET, preact_resnet.PreActResNet, _of(preact_resnet.VARIANTS, "timm")),
    Source(keras.PREACT_RESNET, preact_resnet.PreActResNet, _of(preact_resnet.VARIANTS, "Keras")),
    Source(torchvision.ALEXNET, alexnet.AlexNet, ("alexnet",)),
    Source(torchvision.LENET, lenet.LeNet5, ("lenet5", "lenet5_relu")),
    Source(torchvision.squeezenet, squeezenet.SqueezeNet, _of(squeezenet.VARIANTS, "torchvision")),
    Source(mobilenet_rules.RETINAFACE, mobilenet.MobileNet, _of(mobilenet.VARIANTS, "Howard")),
    Source(mobilenet_rules.TIMM, mobilenet.MobileNet, _of(mobilenet.VARIANTS, "timm")),
    Source(mobilenet_rules.KERAS_V1, mobilenet.MobileNet, _of(mobilenet.VARIANTS, "Keras")),
    Source(mobilenet_rules.torchvision_v2, mobilenet_v2.MobileNetV2, ("mobilenet_v2",)),
    Source(
        mobilenet_rules.timm_v2,
        mobilenet_v2.MobileNetV2,
        ("mobilenet_v2", *_of(mobilenet_v2.VARIANTS, "timm")),
    ),
    Source(mobilenet_rules.KERAS_V2, mobilenet_v2.MobileNetV2, _of(mobilenet_v2.VARIANTS, "Keras")),
    Source(
        mobilenet_rules.torchvision_v3, mobilenet_v3.MobileNetV3, _of(mobilenet_v3.VARIANTS, "torchvision")
    ),
    Source(
        mobilenet_rules.timm_v3,
        mobilenet_v3.MobileNetV3,
        # timm's tf_mobilenetv3_* are Keras's networks
        (*_of(mobilenet_v3.VARIANTS, "timm"), *_of(mobilenet_v3.VARIANTS, "Keras")),
    ),
    Source(mobilenet_rules.KERAS_V3, mobilenet_v3.MobileNetV3, _of(mobilenet_v3.VARIANTS, "Keras")),
    _CV_IMAGENET(
        pytorchcv.RESNET,
        resnet.ResNet,
        (
            *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
            *("resnet50_v1", "resnet101_v1", "resnet152_v1"),
            *("resnext50_32x4d", "resnext101_32x4d", "resnext101_64x4d"),
            *("seresnet50", "seresnet101", "seresnet152"),
            *("seresnet50_v1", "seresnet101_v1", "seresnet152_v1"),
            *("seresnext50_32x4d", "seresnext101_32x4d"),
        ),
    ),
    _CV(
        pytorchcv.CIFAR_RESNET,
        resnet.ResNet,
        (
            *("resnet20_b", "resnet56_b", "resnet110_b", "resnet1202_b", "resnet164_b"),
            *("resnext29_32x4d", "resnext29_16x64d"),
            *("seresnet20_b", "seresnet56_b", "seresnet110_b"),
        ),
    ),
    _CV_IMAGENET(pytorchcv.SENET154, resnet.ResNet, ("senet154",)),
    _CV(pytorchcv.PREACT_RESNET, preact_resnet.PreActResNet, _of(preact_resnet.VARIANTS, "pytorchcv")),
    _CV(pytorchcv.PREACT_RESNET, wide_resnet.WideResNet, ("wrn_16_10", "wrn_28_10", "wrn_40_8")),
    _CV_IMAGENET(pytorchcv.DENSENET, densenet.DenseNet, _of(densenet.VARIANTS, "torchvision")),
    _CV(
        pytorchcv.CIFAR_DENSENET,
        densenet.DenseNet,
        tuple(name for name in densenet.VARIANTS if name.startswith("densenet_bc")),
    ),
    _CV_IMAGENET(pytorchcv.DPN, dpn.DPN, ("dpn68", "dpn98", "dpn131", "dpn107")),
    _CV_IMAGENET(pytorchcv.ALEXNET, alexnet.AlexNet, ("alexnet",)),
    _CV_IMAGENET(pytorchcv.vgg, vgg.VGG, _of(vgg.VARIANTS, "torchvision")),
    _CV_IMAGENET(pytorchcv.squeezenet, squeezenet.SqueezeNet, tuple(squeezenet.VARIANTS)),
    _CV(pytorchcv.NIN, nin.NiN, ("nin_cifar10_pytorchcv",)),
    _CV_IMAGENET(
        pytorchcv.MOBILENET,
        mobilenet.MobileNet,
        _of(mobilenet.VARIANTS, "Howard"),
    ),
    _CV_IMAGENET(pytorchcv.XCEPTION, xception.Xception, ("xception",)),
    _CV_IMAGENET(pytorchcv_inception.BN_INCEPTION, bn_inception.BNInception, ("bn_inception",)),
    _CV_IMAGENET(pytorchcv_inception.INCEPTION_V3, inception_v3.InceptionV3, ("inception_v3_no_aux",)),
    _CV_IMAGENET(pytorchcv_inception.INCEPTION_V4, inception_v4.InceptionV4, ("inception_v4",)),
    _CV_IMAGENET(
        pytorchcv_inception.INCEPTION_RESNET, inception_resnet.InceptionResNet, ("inception_resnet_v2",)
    ),
)
