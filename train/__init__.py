"""The trainer of flaxarch's networks: data, augmentation, optimisation, checkpoints and the loop."""
