"""Which networks of the libraries are of our families, and why some of those are no rows."""

import re

# Library -> patterns of MODULE/NAME, and the family; the first that matches decides.
_FAMILIES: dict[str, tuple[tuple[str, str], ...]] = {
    "torchvision": (
        (r"resnet/.*", "resnet"),
        (r"(vgg|densenet|googlenet|alexnet)/.*", r"\1"),
        (r"squeezenet/.*", "squeezenet"),
        (r"shufflenetv2/.*", "shufflenet_v2"),
        (r"inception/.*", "inception_v3"),
        (r"mobilenetv([23])/.*", r"mobilenet_v\1"),
    ),
    "timm": (
        (r"resnet/(se.*)", "senet"),
        (r"resnet/(?!test_).*", "resnet"),
        (r"(senet|dpn|densenet|vgg|inception_v3|inception_v4)/.*", r"\1"),
        (r"inception_resnet_v2/.*", "inception_resnet"),
        (r"xception(_aligned)?/.*", "xception"),
        (r"resnetv2/.*", "preact_resnet"),
        (r"efficientnet/mobilenetv1_.*", "mobilenet"),
        (r"efficientnet/mobilenetv2_.*", "mobilenet_v2"),
        (r"mobilenetv3/(tf_)?mobilenetv3_.*", "mobilenet_v3"),
    ),
    "Keras": (
        (r"ResNet\d+V2", "preact_resnet"),
        (r"ResNet\d+", "resnet"),
        (r"VGG\d+", "vgg"),
        (r"DenseNet\d+", "densenet"),
        (r"InceptionV3", "inception_v3"),
        (r"InceptionResNetV2", "inception_resnet"),
        (r"Xception", "xception"),
        (r"MobileNet", "mobilenet"),
        (r"MobileNetV2", "mobilenet_v2"),
        (r"MobileNetV3.*", "mobilenet_v3"),
    ),
    "pytorchcv": (
        (r"(resnet|resneta|resnetd|resnext|wrn)/.*", "resnet"),
        (r"(resnet_cifar|resnext_cifar|resdropresnet_cifar)/.*", "cifar_resnet"),
        (r"wrn_cifar/.*", "wide_resnet"),
        (r"(seresnet|seresnet_cifar|seresnext|senet)/.*", "senet"),
        (r"sepreresnet(_cifar)?/.*", "preact_resnet"),
        (r"preresnet(_cifar)?/.*", "preact_resnet"),
        (r"(dpn|vgg|xception|unet)/.*", r"\1"),
        (r"densenet(_cifar)?/.*", "densenet"),
        (r"(alexnet|zfnet)/.*", "alexnet"),
        (r"squeezenet/.*", "squeezenet"),
        (r"mobilenetb?/.*", "mobilenet"),
        (r"mobilenetv([23])/.*", r"mobilenet_v\1"),
        (r"shufflenetv2b?/.*", "shufflenet_v2"),
        (r"inceptionv([34])/.*", r"inception_v\1"),
        (r"inceptionresnetv[12]/.*", "inception_resnet"),
        (r"bninception/.*", "bn_inception"),
        (r"nin_cifar/.*", "nin"),
    ),
}

# Of networks that no row reads: what they have that ours do not, by "LIBRARY NAME".
REASONS: tuple[tuple[str, str], ...] = (
    (r"timm resnet\d+d|timm seresnet\d+d|timm resnext50d.*", "deep stem and pooled shortcuts (ResNet-D)"),
    (r"timm (se)?resnet\d+[cst]", "another stem (ResNet-C, -S, -T)"),
    (r"timm ecaresn.*", "efficient channel attention"),
    (r"timm resnetrs.*", "ResNet-RS: squeeze-and-excitation, deep stem, pooled shortcuts"),
    (r"timm (se)?res(net|next)aa.*|timm resnetblur.*|timm densenetblur.*", "anti-aliased"),
    (r"timm resnet50_gn", "group norm"),
    (r"timm seresnext26[dt].*|timm seresnext101d.*", "deep stem and pooled shortcuts (ResNet-D)"),
    (r"timm densenet264d", "deep stem"),
    (r"timm dpn(48b|68b)|pytorchcv dpn68b", "blocks of form b, whose last convolution is two"),
    (
        r"timm xception\d+p?",
        "aligned Xception, with batch norm inside the separable convolutions",
    ),
    (r"timm resnetv2_\w+_bit|timm resnetv2_50d_\w+", "group norm or other norms"),
    (r"timm resnetv2_\d+[dt]", "deep stem and pooled shortcuts (ResNet-D)"),
    (r"timm mobilenetv1_100h", "another head"),
    (r"timm mobilenetv3_(rw|large_150d)", "another head, or other depths"),
    (r"pytorchcv bn_vgg\d+", "convolutions without biases"),
    (r"pytorchcv densenet\d+_k\d+_cifar10", "transitions that halve the features"),
    (r"pytorchcv inceptionresnetv1", "FaceNet's, with a bottleneck ahead of its head"),
    (r"pytorchcv resneta.*", "average-pooled shortcuts and a deep stem"),
    (r"pytorchcv resnetd\d+.*", "dilated, with a deep stem"),
    (r"pytorchcv resdrop.*", "drops units"),
    (r"pytorchcv sepreres.*", "squeeze-and-excitation in pre-activation units"),
    (r"pytorchcv fdmobilenet.*", "fast downsampling"),
    (r"pytorchcv unet.*", "another U-Net"),
)


def family(library: str, path: str) -> str | None:
    """The family of MODULE/NAME, in Keras of NAME; None where it is of none of ours."""
    for pattern, name in _FAMILIES[library]:
        match = re.fullmatch(pattern, path)
        if match:
            return match.expand(name)
    return None


def reason(name: str) -> str:
    """What the network "LIBRARY NAME" has that no row has, as far as that has been written down; else ""."""
    return next((words for pattern, words in REASONS if re.fullmatch(pattern, name)), "")
