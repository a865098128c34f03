"""Files of other libraries, written by these, read where they are absent, and given back.

    python -m benchmarks.weights.write_torch DIR [NAME ...]   where torch, torchvision, timm, pytorchcv are
    python -m benchmarks.weights.write_keras DIR [NAME ...]   where Keras is
    python -m benchmarks.weights.read DIR [NAME ...]          where none of them is
    python -m benchmarks.weights.back DIR [NAME ...]          where torch is

and, without a file, which networks the libraries have of our families, and which row reads each:

    python -m benchmarks.weights.catalogue torch [LIBRARY ...]
    python -m benchmarks.weights.catalogue keras
    python -m benchmarks.weights.catalogue keys FOLDER

`read`, `back` and `catalogue` keep what they found in `benchmarks/results/weights.json`, from which
`python -m benchmarks.weights.page` writes `docs/weights.md`.
"""
