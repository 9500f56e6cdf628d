"""`python -m sparker`."""

import sys

from sparker.cli import main

if __name__ == "__main__":  # workers import this module too
    sys.exit(main())
