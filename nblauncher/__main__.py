"""`nblauncher` and `python -m nblauncher`: signals are remembered before anything that takes time is imported."""

from nblauncher.system import interruption


def main() -> None:
    """The console script `nblauncher`."""
    interruption.listen()
    from nblauncher.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
