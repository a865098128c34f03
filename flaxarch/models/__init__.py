"""One file per family, named for it; each has its `VARIANTS`."""
