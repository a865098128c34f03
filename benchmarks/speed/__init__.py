"""Speed beside torch, Keras on JAX and the ResNets of Flax's examples and flaxmodels: one command, one run.

    python -m benchmarks.speed run [--networks ...] [--cases ...] [--contenders ...] [--python torch=PATH ...]
    python -m benchmarks.speed report

Each contender of a case is a process of its own, with an interpreter of its own where `--python` names one,
so that peak memory, compilation and the time to the first image are its own too. When all are ready they
take turns, A B C A B C; a ratio is the median over rounds of the quotient of two times of the same round.
Nothing here is CPU's: run anew on a GPU or TPU, it keeps one file for each device,
`benchmarks/results/speed/`.
"""
