"""What the tests of the readers share."""

import pytest


@pytest.fixture
def file(tmp_path):
    def write(content, name="weights.pth"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write
