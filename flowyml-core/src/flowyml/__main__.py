"""``python -m flowyml``."""

import sys

from flowyml.cli import main

if __name__ == "__main__":
    sys.exit(main())
