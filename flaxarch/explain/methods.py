"""The methods by name, each as a tile of one image: what `flaxarch explain` runs."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxarch.analysis import cost
from flaxarch.explain import tiles
from flaxarch.explain.filters import first_layer_filters
from flaxarch.explain.gradients import gradient, guided_backprop, integrated_gradients
from flaxarch.explain.maps import cam, feature_map, grad_cam, logits
from flaxarch.explain.occlusion import occlusion
from flaxarch.explain.program import Program, trace
from flaxarch.explain.receptive import effective_receptive_field, field_size
from flaxarch.explain.tiles import Tile
from flaxarch.layers import Network
from flaxarch.variant import Variant


class Subject(NamedTuple):
    """A network with its weights, and the layer of it that is meant."""

    model: Network
    variables: Any
    row: Variant  # how its images are made
    layer: str | None = None  # None: the last feature map

    @property
    def program(self) -> Program:
        """Of one image."""
        return trace(self.model, self.variables, self.shape)

    @property
    def shape(self) -> jax.ShapeDtypeStruct:
        """Of what the network reads, a batch of one image."""
        return jax.ShapeDtypeStruct((1, *self.row.input_shape), jnp.float32)

    @property
    def layer_name(self) -> str:
        """The layer's name, for people."""
        return self.layer or self.program.name_of(self.program.layer(None))

    def logits(self, image: np.ndarray) -> np.ndarray:
        """(num_classes,) of an image (H, W, C)."""
        return np.asarray(logits(self.model, self.variables, jnp.asarray(image)[None])[0])


class View(NamedTuple):
    """An image to explain."""

    image: np.ndarray  # (H, W, C), as the network reads it
    number: int  # of the class that is asked for
    picture: np.ndarray  # uint8 (H, W, 3), as people see it

    @property
    def arguments(self) -> tuple[jax.Array, jax.Array]:
        """Images and classes, of a batch of one."""
        return jnp.asarray(self.image)[None], jnp.asarray([self.number])


def _cam(subject: Subject, view: View) -> Tile:
    values = np.asarray(cam(subject.model, subject.variables, *view.arguments)[0])
    return tiles.place_map(values, view.picture, is_signed=True)


def _grad_cam(subject: Subject, view: View) -> Tile:
    found = grad_cam(subject.model, subject.variables, *view.arguments, subject.layer)
    return tiles.place_map(np.asarray(found[0]), view.picture, is_signed=False)


def _occlusion(subject: Subject, view: View) -> Tile:
    values = np.asarray(occlusion(subject.model, subject.variables, *view.arguments)[0])
    return tiles.place_map(values, view.picture, is_signed=True)


def _guided_backprop(subject: Subject, view: View) -> Tile:
    values = np.asarray(guided_backprop(subject.model, subject.variables, *view.arguments)[0])
    return tiles.colour_map(values, subject.row)


def _gradient(subject: Subject, view: View) -> Tile:
    values = np.asarray(gradient(subject.model, subject.variables, *view.arguments)[0])
    values = np.abs(values).max(-1)
    most = float(np.percentile(values, 99.5))
    return tiles.pixel_map(values, tiles.Scale("gray", 0.0, most, "logits per unit of input"))


def _integrated_gradients(subject: Subject, view: View) -> Tile:
    row = subject.row
    black = -np.asarray(row.mean, np.float32) / np.asarray(row.std, np.float32)
    black = np.broadcast_to(black, view.image.shape)
    images, classes = view.arguments
    found = integrated_gradients(subject.model, subject.variables, images, classes, baseline=black[None])
    values = np.asarray(found[0]).sum(-1)
    whole, none = (float(subject.logits(image)[view.number]) for image in (view.image, black))
    note = f"sum {values.sum():.2f}; from black, the logit rises by {whole - none:.2f}"
    return tiles.pixel_map(values, tiles.signed(values, "logits", 99.5), note)


def _activations(subject: Subject, view: View) -> Tile:
    found = feature_map(subject.model, subject.variables, view.arguments[0], subject.layer)
    return tiles.channels(np.asarray(found[0], np.float32), subject.layer_name)


def _filters(subject: Subject, images: Sequence[np.ndarray]) -> Tile:
    del images
    found = first_layer_filters(subject.model, subject.variables, subject.shape)
    return tiles.filters(np.asarray(found), subject.row)


def _receptive_field(subject: Subject, images: Sequence[np.ndarray]) -> Tile:
    field_on = partial(effective_receptive_field, subject.model, subject.variables, layer=subject.layer)
    fields = [np.asarray(field_on(jnp.asarray(image)[None])) for image in images]
    field = np.mean(fields, axis=0)
    field = field / max(float(field.max()), float(np.finfo(np.float32).tiny))
    note = f"{subject.layer_name}: in effect a square of {field_size(field).side:.0f} pixels"
    height, width = _possible_field(subject)
    note += f", by its kernels {height}x{width}"
    return tiles.pixel_map(field, tiles.Scale("inferno", 0.0, 1.0, "of the largest"), note)


def _possible_field(subject: Subject) -> tuple[int, int]:
    """Height and width of the theoretical receptive field of the layer's units."""
    layers = cost(subject.model, subject.row.input_shape).layers
    shape = subject.program.layer(subject.layer).aval.shape[1:3]
    inside = [x for x in layers if subject.layer and f"{x.path}/".startswith(f"{subject.layer}/")]
    inside = inside or [x for x in layers if x.output_shape[:2] == shape]
    return max((x.receptive_field for x in inside), key=math.prod)


class Method(NamedTuple):
    """A method, and what a reader is told of it."""

    title: str
    about: str  # what is to be seen, in one sentence
    source: str
    passes: str  # its cost for an image
    draw: Callable[[Subject, View], Tile]


class NetworkMethod(NamedTuple):
    """A method that shows the network once, not each picture."""

    title: str
    about: str
    source: str
    passes: str
    draw: Callable[[Subject, Sequence[np.ndarray]], Tile]


METHODS = {
    "grad-cam": Method(
        "Grad-CAM",
        "Where the layer's features speak for the class.",
        "Selvaraju et al. 2017",
        "up to 2 forward passes",
        _grad_cam,
    ),
    "cam": Method(
        "CAM",
        "What each place of the last feature map adds to the class's logit: red adds, blue takes away.",
        "Zhou et al. 2016",
        "1 forward pass",
        _cam,
    ),
    "guided-backprop": Method(
        "guided backprop",
        "The gradient of the class's logit, where each ReLU lets only positive values back.",
        "Springenberg et al. 2015",
        "2 forward passes",
        _guided_backprop,
    ),
    "gradient": Method(
        "gradient",
        "How much the class's logit changes with each pixel: the largest of its channels' gradients.",
        "Simonyan et al. 2014",
        "2 forward passes",
        _gradient,
    ),
    "integrated-gradients": Method(
        "integrated gradients",
        "What each pixel adds to the class's logit, compared with black: red adds, blue takes away.",
        "Sundararajan et al. 2017",
        "66 forward passes",
        _integrated_gradients,
    ),
    "occlusion": Method(
        "occlusion",
        "By how much the class's logit falls where a patch hides the picture: red falls, blue rises.",
        "Zeiler & Fergus 2014",
        "some 50 forward passes",
        _occlusion,
    ),
    "activations": Method(
        "activations",
        "What the layer's strongest channels give.",
        "Zeiler & Fergus 2014",
        "1 forward pass",
        _activations,
    ),
}
NETWORK_METHODS = {
    "filters": NetworkMethod(
        "first-layer filters",
        "The kernels that read the image.",
        "Krizhevsky et al. 2012",
        "no forward pass",
        _filters,
    ),
    "receptive-field": NetworkMethod(
        "effective receptive field",
        "How much the layer's central unit depends on each pixel, on average over up to 16 pictures.",
        "Luo et al. 2016",
        "up to 2 forward passes",
        _receptive_field,
    ),
}
DEFAULT = ("grad-cam", "guided-backprop", "integrated-gradients", "occlusion")


def lack(subject: Subject, method: str) -> str:
    """Why the network does not have a method, in one sentence; empty where it has. Computes nothing."""
    model, variables, shape, program = subject.model, subject.variables, subject.shape, subject.program
    checks: dict[str, Callable[[], Any]] = {
        "cam": lambda: jax.eval_shape(partial(cam, model), variables, shape),
        "guided-backprop": lambda: jax.eval_shape(partial(guided_backprop, model), variables, shape),
        "filters": lambda: jax.eval_shape(partial(first_layer_filters, model), variables, shape),
        "activations": lambda: program.layer(subject.layer),
        "grad-cam": lambda: program.feature_map(subject.layer),
        "receptive-field": lambda: program.feature_map(subject.layer),
    }
    try:
        if method in checks:
            checks[method]()
    except ValueError as error:
        return str(error)
    return ""
