"""`python -m nblauncher.server`: see app."""

import sys

from nblauncher.server.app import main

sys.exit(main())
