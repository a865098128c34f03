"""Training a shallow network, refining it three times, against training the deep one from scratch."""

from benchmarks.claims.statements._multilevel import claims

CLAIM, FULL = claims((3, 6, 12, 24), share=0.5, num_updates=400)
