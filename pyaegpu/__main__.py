"""`python -m pyaegpu …`."""

import sys

from pyaegpu.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
