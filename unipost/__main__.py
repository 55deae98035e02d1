"""`python -m unipost`: the command line."""

import sys

from unipost.cli import main

sys.exit(main())
