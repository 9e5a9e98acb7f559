"""`python -m nblauncher`."""

from nblauncher.cli import main

main()
