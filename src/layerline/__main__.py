"""`python -m layerline` is the command `layerline`."""

import sys

from layerline.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
