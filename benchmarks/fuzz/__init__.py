"""Fuzzing of the readers: damaged and malicious files of each format, which must end in one sentence.

python -m benchmarks.fuzz                          # 2,000 files of each format: some minutes; kept
python -m benchmarks.fuzz .pth .keras --count 100  # fewer, of two formats; not kept
python -m benchmarks.fuzz .pth --only 17           # one file again, with its whole message
"""
