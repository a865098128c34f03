"""Files written by torch and torchvision themselves, and state dicts given back to them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxarch
from tests.golden import fill

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_torchvision_file_loads_by_itself_and_goes_back_bit_for_bit(name: str, is_zip: bool, tmp_path: Path):
    network = getattr(torchvision.models, name)().eval()
    checkpoint = {"state_dict": {f"module.{key}": x for key, x in network.state_dict().items()}, "epoch": 3}
    torch.save(checkpoint, tmp_path / "x.pth", _use_new_zipfile_serialization=is_zip)
    model, variables = flaxarch.load(tmp_path / "x.pth")
    assert model == flaxarch.create(name)

    images = fill.images(2, 65, 65).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    found = jax.jit(lambda x: model.apply(variables, x, train=False))(jnp.asarray(images))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())

    other = getattr(torchvision.models, name)()
    state_dict = {key: torch.from_numpy(x) for key, x in flaxarch.to_torch(model, variables).items()}
    other.load_state_dict(state_dict, strict=True)
    for key, x in network.state_dict().items():
        assert torch.equal(other.state_dict()[key], x), key


@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_1"])
def test_file_written_without_torch_is_what_torchvision_takes(name: str, tmp_path: Path):
    network = getattr(torchvision.models, name)()
    torch.save(network.state_dict(), tmp_path / "x.pth")
    flaxarch.convert.write_torch(tmp_path / "y.pth", flaxarch.to_torch(*flaxarch.load(tmp_path / "x.pth")))
    for mapped in (False, True):
        state_dict = torch.load(tmp_path / "y.pth", weights_only=True, mmap=mapped)
        other = getattr(torchvision.models, name)()
        other.load_state_dict(state_dict, strict=True)
        for key, x in network.state_dict().items():
            assert torch.equal(other.state_dict()[key], x), key
