"""Differential equations, for networks to be built on: theta(t) in bases, solvers, reversible loops.

What is public of it is in `flaxarch.depth`.
"""
