"""The `headgate` command."""


def main() -> None:
    """Run the command line; nothing but this package's own text is imported before it is called."""
    from headgate.cli.app import run

    run()
