"""`nblauncher` and `python -m nblauncher`: signals are remembered before anything that takes time is imported."""

from nblauncher import interruption


def main() -> None:
    """The console script `nblauncher`."""
    interruption.listen()
    from nblauncher import cli

    cli.main()


if __name__ == "__main__":
    main()
