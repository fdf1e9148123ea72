"""`python -m hiper` is the command `hiper`."""

import sys

from hiper.cli import main

if __name__ == "__main__":
    sys.exit(main())
