"""Set up JAX before any test touches it: several CPU devices, and no silent broadcasting of ranks."""

import os

# Eight, so that data-parallel code meets more devices than a laptop has.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["FLAXARCH_KEEP_MEMORY"] = "0"  # what one test frees is of no use to the next

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
