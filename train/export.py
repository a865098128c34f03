"""What a run leaves to be used: its best network as one file, with its classes and its preprocessing."""

from typing import Any

from safetensors import SafetensorError

import flaxarch
from train.build import Run
from train.checkpoint import load_best
from train.config import Config
from train.data.catalog import FILES
from train.examples import measured_by
from train.workdir import WorkdirError, reason_of

WEIGHTS = "best.safetensors"


def write_weights(config: Config, run: Run) -> str:
    """Writes the best network to WEIGHTS in the workdir, unless it is there; says in a line what that is.

    Where the run has a moving average, its evaluations, and so the best of them, are of that, and it is what
    is written.

    Raises:
        WorkdirError: it cannot be written.
    """
    path, best = config.run_dir / WEIGHTS, load_best(config.run_dir)
    model: Any = run.model
    if best is None:
        return f"none: {config.run_dir / 'best'} is empty"
    average = best.variables.get("ema")
    what = "parameters" if average is None else "moving average"
    variables = best.variables if average is None else average
    if not path.exists():  # once a run is finished, its best network stays the same
        provenance = {
            "source": "flaxarch's trainer",
            "data": config.data,
            "step": str(best.step),
            f"{measured_by(run.data)[0]} accuracy": f"{best.accuracy:.6f}",
            "variables": what,
            "views": config.test_views,
        }
        try:
            flaxarch.save(
                path,
                model,
                {name: variables[name] for name in ("params", "batch_stats")},
                classes=run.data.train.class_names,
                provenance=provenance,
                preprocessing=preprocessing(config, run),
            )
        except (OSError, SafetensorError) as error:
            raise WorkdirError(f"{path} cannot be written: {reason_of(error)}") from error
        except ValueError as error:  # a module of other fields than numbers, strings and tuples
            return f"none: {error}"
    return f"{path}: the {what} after step {best.step}, for `flaxarch predict` and `--weights` of other runs"


def preprocessing(config: Config, run: Run) -> dict[str, Any]:
    """How a picture file comes to the network as the run's own test images did; fields of a row."""
    shape = run.data.train.image_shape
    pixels = dict(run.pixels)
    if shape[2] == 1:
        pixels["channels"] = "L"
    # Files are resized by the shorter side and cropped, images of other sets stretched.
    resize = config.image_size if config.data in FILES else None
    return pixels | {"input_shape": shape, "resize": resize, "interpolation": "bilinear"}
