"""Training a shallow network, refining it twice and going on, against training the deep one from scratch."""

from benchmarks.claims.statements._multilevel import claims

CLAIM, FULL = claims((3, 6, 12), share=0.6, num_updates=450)
