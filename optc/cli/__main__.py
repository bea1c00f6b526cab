"""`python -m optc.cli`: the command line where no script is installed."""

from __future__ import annotations

import sys

from optc.cli import main

sys.exit(main())
