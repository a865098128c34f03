"""What a network looks at: its features, its filters, and which parts of an image speak for a class.

All are pure functions of (model, variables, images), of any network, compiled once for each shape of images.

>>> model, variables = flaxarch.load("resnet50.safetensors")
>>> images = flaxarch.preprocess("resnet50")("cat.jpg")[None]
>>> explain.grad_cam(model, variables, images).shape            # of the likeliest class, at the last map
(1, 7, 7)
>>> explain.grad_cam(model, variables, images, layer="layer3_5").shape
(1, 14, 14)

`report.Report` sets them side by side, and needs the extra `report`; the rest needs nothing more.
"""

from flaxarch.explain.filters import filter_grid, first_layer_filters
from flaxarch.explain.gradients import gradient, guided_backprop, integrated_gradients
from flaxarch.explain.maps import activations, cam, feature_map, grad_cam, layers, logits
from flaxarch.explain.occlusion import occlusion
from flaxarch.explain.receptive import FieldSize, effective_receptive_field, field_size

__all__ = [
    "FieldSize",
    "activations",
    "cam",
    "effective_receptive_field",
    "feature_map",
    "field_size",
    "filter_grid",
    "first_layer_filters",
    "grad_cam",
    "gradient",
    "guided_backprop",
    "integrated_gradients",
    "layers",
    "logits",
    "occlusion",
]
