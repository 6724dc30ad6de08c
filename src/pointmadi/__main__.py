"""Let `python -m pointmadi` and `torchrun -m pointmadi` be the command."""

import sys

from pointmadi.cli import main

if __name__ == "__main__":
    sys.exit(main())
