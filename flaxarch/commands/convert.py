"""`flaxarch convert`: a checkpoint of any supported kind to flaxarch's own format, or to torch's."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

import flaxarch
from flaxarch.commands.base import (
    Command,
    UsageError,
    print_json,
    stdout,
)
from flaxarch.commands.classes import read_classes

if TYPE_CHECKING:
    from flaxarch.convert import Recognised
    from flaxarch.layers import Network

_OWN, _TORCH = ".safetensors", (".pth", ".pt")


@dataclass(frozen=True)
class Convert(Command):
    """Converts a checkpoint: to flaxarch's own .safetensors, or to .pth or .pt for torch.

    The own format tells which network it is, how its pictures are made, and where the weights come from. A
    torch file holds a state dict that torchvision's (or timm's) `load_state_dict(strict=True)` takes.
    """

    input: tyro.conf.Positional[Path]
    """A checkpoint of torchvision, timm, Keras or pytorchcv, or one that flaxarch wrote."""
    output: tyro.conf.Positional[Path]
    """The file to write: .safetensors, .pth or .pt."""
    name: str | None = None
    """Which network it is, where the file does not tell; one of those that `flaxarch list` shows."""
    num_classes: int | None = None
    """Another number of classes: the head is new then."""
    in_channels: int | None = None
    """Another number of channels of the images: the first kernels are summed or repeated."""
    classes: Path | None = None
    """File with the names of the classes, one a line, to be kept in the .safetensors."""
    library: str | None = None
    """Whose names a torch file has: torchvision, timm or pytorchcv; None: the first that has the network."""
    force: bool = False
    """Write over a file that is there."""

    def run(self) -> int:
        """Reads one file and writes the other."""
        self._check()
        from flaxarch.convert.weights import torch_rules  # brings JAX

        found = flaxarch.convert.recognise(self.input, self.name)
        model, variables = flaxarch.load(
            self.input, self.name, num_classes=self.num_classes, in_channels=self.in_channels
        )
        if not self.json:
            stdout().print(f"{self.input}: {found}, {_count(found):,} parameters")
        names = found.classes if model.num_classes == found.model.num_classes else None
        if self.classes is not None:
            names = read_classes(self.classes, model.num_classes)
        if self._is_own:
            flaxarch.save(self.output, model, variables, names, self._provenance(found), found.preprocessing)
            what = "flaxarch's own format"
        else:
            flaxarch.convert.write_torch(self.output, flaxarch.to_torch(model, variables, self.library))
            what = f"a torch state dict with {torch_rules(model, self.library).source}'s names"
        report = self._report(found, model, variables, what)
        if self.json:
            print_json(report)
            return 0
        written = report["written"]
        stdout().print(
            f"{self.output}: {written['format']}, {written['num_classes']} classes, "
            f"{written['num_params']:,} parameters in {written['num_tensors']} tensors, "
            f"{written['bytes'] / 1e6:.1f} MB"
        )
        return 0

    @property
    def _is_own(self) -> bool:
        return self.output.suffix.lower() == _OWN

    def _check(self) -> None:
        """UsageError for what can be told before anything is read."""
        if self.output.suffix.lower() not in (_OWN, *_TORCH):
            raise UsageError(f"{self.output} has to end in {_OWN} (flaxarch's own), .pth or .pt (torch's)")
        if self.classes is not None and not self._is_own:
            raise UsageError(f"{self.output} is to be a torch file, which holds no names of classes")
        if self.library is not None and self._is_own:
            raise UsageError(f"{self.output} is to be flaxarch's own format: --library is for torch files")
        for flag, number in (("--num-classes", self.num_classes), ("--in-channels", self.in_channels)):
            if number is not None and number < 1:
                raise UsageError(f"{flag} is {number}: it has to be at least 1")
        if not self.output.parent.is_dir():
            raise UsageError(f"there is no folder {self.output.parent} to write {self.output.name} to")
        part = self.output.with_name(self.output.name + ".part")  # what is written ahead of the file itself
        for path in (self.output, part):
            if path.exists() and self.input.exists() and path.samefile(self.input):
                raise UsageError(f"{self.input} would be written over while it is read: choose another")
        if self.output.is_dir():
            raise UsageError(f"{self.output} is a folder")
        if self.output.exists() and not self.force:
            raise UsageError(f"{self.output} is there already: --force writes over it")

    def _provenance(self, found: "Recognised") -> dict[str, str]:
        """Where the weights come from; for a file of flaxarch's own, what that says too, as "earlier"."""
        from flaxarch.convert.hub import weights_in

        weights = Path(weights_in(str(self.input))) if self.input.is_dir() else self.input
        with weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        provenance = {"file": self.input.name, "sha256": digest, "source": found.source}
        if self.num_classes not in (None, found.model.num_classes):
            provenance["head"] = f"new, of {self.num_classes} classes instead of {found.model.num_classes}"
        if self.in_channels not in (None, found.in_channels):
            provenance["in_channels"] = f"{self.in_channels} instead of {found.in_channels}"
        if found.source == "flaxarch":
            earlier = flaxarch.convert.read_checkpoint(self.input).metadata.get("provenance")
            provenance |= {"earlier": earlier} if earlier else {}
        return provenance

    def _report(self, found: "Recognised", model: "Network", variables: Any, what: str) -> dict[str, Any]:
        import jax

        return {
            "read": {
                "path": str(self.input),
                "name": found.name,
                "source": found.source,
                "num_classes": found.model.num_classes,
                "num_params": _count(found),
                "in_channels": found.in_channels,
            },
            "written": {
                "path": str(self.output),
                "format": what,
                "num_classes": model.num_classes,
                "num_params": sum(x.size for x in jax.tree.leaves(variables["params"])),
                "num_tensors": len(jax.tree.leaves(variables)),
                "bytes": self.output.stat().st_size,
            },
        }


def _count(found: "Recognised") -> int:
    """Parameters of what is in the file."""
    import jax

    from flaxarch.convert.recognise import shapes_of

    return sum(x.size for x in jax.tree.leaves(shapes_of(found.model, found.in_channels)["params"]))
