"""`python -m turnkeeper` is the `turnkeeper` command: how the supervisor starts its children."""

import sys

from turnkeeper.cli import main

if __name__ == "__main__":
    sys.exit(main())
