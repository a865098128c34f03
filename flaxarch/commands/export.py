"""`flaxarch export`: a network for others to run, as ONNX or StableHLO, compared with the network itself."""

import os
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import tyro

import flaxarch
from flaxarch.commands.base import Command, CommandError, UsageError, print_json, remark, stdout, times
from flaxarch.commands.classes import class_names

if TYPE_CHECKING:
    from flaxarch.layers import Network
    from flaxarch.variant import Variant

_ONNX, _STABLEHLO = ".onnx", ".stablehlo"
_NUM_IMAGES = 2  # that the file is compared on
_TOLERANCE = 1e-4  # of the largest logit


class _Source(NamedTuple):
    """What is exported."""

    name: str
    model: "Network"
    variables: dict[str, Any]
    row: "Variant"  # with the preprocessing of the file, if there is one
    classes: tuple[str, ...] | None
    origin: str  # of the weights, for people


@dataclass(frozen=True)
class Export(Command):
    """Exports a network as it evaluates: to .onnx, or to .stablehlo for JAX without the network's code.

    The file is read back and compared with the network on random images before it appears. One of ONNX is
    compared where onnxruntime is installed. Both take any number of images.
    """

    source: tyro.conf.Positional[str]
    """A checkpoint, as `flaxarch convert` reads it, or the name of a network, which has new weights then."""
    output: tyro.conf.Positional[Path]
    """The file to write: .onnx or .stablehlo."""
    name: str | None = None
    """Which network a checkpoint is of, where the file does not tell."""
    layout: Literal["NCHW", "NHWC"] | None = None
    """Of an .onnx's images; None: NCHW, as torch's exports have it. A .stablehlo takes NHWC."""
    image_size: tuple[int, int] | None = None
    """Height and width of the images; None: the row's. A .stablehlo takes others too, where it can."""
    classes: Path | None = None
    """File with the names of the classes, one a line; else the checkpoint's, or those of its data set."""
    force: bool = False
    """Write over a file that is there."""

    def run(self) -> int:
        """Writes the file, compares, and says what is in it."""
        self._check()
        source = self._source()
        unchecked = self.output.with_name(f"{self.output.stem}.unchecked{self.output.suffix}")
        try:
            written = self._write(unchecked, source)
            checked = self._compare(unchecked, source)
            os.replace(unchecked, self.output)
        finally:
            unchecked.unlink(missing_ok=True)
        written = {"path": str(self.output), **written}
        if self.json:
            read = {"source": self.source, "name": source.name, "num_classes": source.model.num_classes}
            print_json({"read": read | {"weights": source.origin}, "written": written, "checked": checked})
            return 0
        stdout().print(f"{self.source}: {source.name}, {source.model.num_classes} classes, {source.origin}")
        stdout().print(f"{self.output}: {_in_words(written)}, {written['bytes'] / 1e6:.1f} MB")
        if checked is None:
            remark("not compared: onnxruntime is not installed")
        else:
            stdout().print(
                f"compared by {checked['by']} on {checked['num_images']} random images: "
                f"{checked['relative_difference']:.1e} of the largest logit"
            )
        return 0

    @property
    def _is_onnx(self) -> bool:
        return self.output.suffix.lower() == _ONNX

    def _check(self) -> None:
        """UsageError for what can be told before anything is read."""
        if self.output.suffix.lower() not in (_ONNX, _STABLEHLO):
            raise UsageError(f"{self.output} has to end in {_ONNX} or {_STABLEHLO}")
        if self.layout is not None and not self._is_onnx:
            raise UsageError("--layout is for .onnx files: a .stablehlo takes images as NHWC")
        if self.image_size is not None and min(self.image_size) < 1:
            raise UsageError(f"--image-size is {times(self.image_size)}: it has to be at least 1x1")
        if not self.output.parent.is_dir():
            raise UsageError(f"there is no folder {self.output.parent} to write {self.output.name} to")
        if self.output.is_dir():
            raise UsageError(f"{self.output} is a folder")
        if self.output.exists() and Path(self.source).exists() and self.output.samefile(self.source):
            raise UsageError(f"{self.source} would be written over while it is read: choose another")
        if self.output.exists() and not self.force:
            raise UsageError(f"{self.output} is there already: --force writes over it")
        package = "onnx" if self._is_onnx else "flatbuffers"
        if find_spec(package) is None:
            raise UsageError(
                f"a {self.output.suffix} file needs {package}, which is not installed: "
                "pip install 'flaxarch[export]'"
            )

    def _source(self) -> _Source:
        from flaxarch.commands.batches import row_of  # brings NumPy and JAX

        path = Path(self.source)
        if not path.exists() and not path.suffix and os.sep not in self.source:
            if self.name is not None:
                raise UsageError(f"there is no file {self.source}: --name is for a checkpoint")
            return self._new()
        found = flaxarch.convert.recognise(path, self.name)
        row = row_of(found, path.name)
        names, _ = class_names(found, flaxarch.published(found.name), self.classes)
        model, variables = flaxarch.load(path, self.name)
        origin = f"weights with {found.source}'s names"
        return _Source(found.name, model, variables, self._sized(row), names, origin)

    def _new(self) -> _Source:
        """The network of a row, with the parameters that training begins with."""
        import jax

        from flaxarch.commands.classes import read_classes
        from flaxarch.convert.recognise import images_of

        row, model = flaxarch.published(self.source), flaxarch.create(self.source)
        init = jax.jit(lambda key: flaxarch.functional(model).init(key, images_of(model)))
        params, batch_stats = init(jax.random.key(0))
        names = None if self.classes is None else read_classes(self.classes, model.num_classes)
        remark("the weights are new, from seed 0: give a checkpoint for trained ones")
        variables = {"params": params, "batch_stats": batch_stats}
        return _Source(self.source, model, variables, self._sized(row), names, "new weights")

    def _sized(self, row: "Variant") -> "Variant":
        if self.image_size is None:
            return row
        return row._replace(input_shape=(*self.image_size, row.input_shape[2]))

    def _write(self, path: Path, source: _Source) -> dict[str, Any]:
        """Writes the file; what the report says of it."""
        from flaxarch import export

        keys = ("input_shape", "resize", "interpolation", "mean", "std", "channels")
        given: dict[str, Any] = {
            "input_shape": source.row.input_shape,
            "preprocessing": {key: getattr(source.row, key) for key in keys},
            "classes": source.classes,
        }
        if self._is_onnx:
            onnx = export.write_onnx(
                path, source.model, source.variables, layout=self.layout or "NCHW", **given
            )
            return {
                "format": "ONNX",
                "opset": export.OPSET,
                "layout": onnx.layout,
                "input_shape": onnx.input_shape,
                "num_nodes": sum(onnx.operations.values()),
                "operations": onnx.operations,
                "bytes": onnx.num_bytes,
            }
        file = export.write_stablehlo(path, source.model, source.variables, **given)
        return {
            "format": "StableHLO",
            "platforms": export.PLATFORMS,
            "layout": "NHWC",
            "input_shape": file.input_shape,
            "image_size": file.image_size,
            "image_size_because": file.reason,
            "bytes": file.num_bytes,
        }

    def _compare(self, path: Path, source: _Source) -> dict[str, Any] | None:
        """How far the file's logits are from the network's; None where nothing here can run it."""
        if self._is_onnx and find_spec("onnxruntime") is None:
            return None
        import jax
        import numpy as np

        from flaxarch import export

        shape = _NUM_IMAGES, *source.row.input_shape
        images = np.random.default_rng(0).standard_normal(shape, np.float32)
        if self._is_onnx:
            logits, by = export.run_onnx(path, images), f"onnxruntime {version('onnxruntime')}"
        else:
            network = export.read_stablehlo(path)
            logits, by = network.evaluate(network.variables, images), f"JAX {version('jax')}"
        variables = source.variables
        apply = jax.jit(flaxarch.functional(source.model).apply, static_argnames="train")
        expected, _ = apply(variables["params"], variables["batch_stats"], images, train=False)
        if not np.isfinite(expected).all():
            raise CommandError("the network gives no numbers for random images: its weights are broken")
        largest, difference = float(abs(expected).max()), float(abs(np.asarray(logits) - expected).max())
        relative = difference / largest if largest else difference
        if not relative <= _TOLERANCE:
            raise CommandError(
                f"the file's logits differ from the network's by {relative:.1e} of the largest, more than "
                f"{_TOLERANCE:.0e}: it is not kept"
            )
        return {
            "by": by,
            "num_images": _NUM_IMAGES,
            "largest_logit": largest,
            "max_difference": difference,
            "relative_difference": relative,
        }


def _in_words(written: dict[str, Any]) -> str:
    if written["format"] == "ONNX":
        size = times(written["input_shape"])
        words = f"{written['layout']} images of {size} (height, width, channels)"
        return f"ONNX opset {written['opset']}, {words}, {written['num_nodes']} nodes"
    because = f" ({written['image_size_because']})" if written["image_size_because"] else ""
    return f"StableHLO for {', '.join(written['platforms'])}, images {written['image_size']}{because}"
