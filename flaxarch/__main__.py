"""`python -m flaxarch` is `flaxarch`."""

import sys

from flaxarch.cli import main

if __name__ == "__main__":
    sys.exit(main())
