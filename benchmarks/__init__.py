"""What was measured: results that runs have written, and the tables that are made of them."""
