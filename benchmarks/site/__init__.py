"""What the documentation's site has besides the files in `docs/`: pages of families, with pictures."""
