"""One file, one claim: each has a `CLAIM`."""
