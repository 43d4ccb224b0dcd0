"""The `headgate` command."""

import os


def main() -> None:
    """Run the command line; nothing but this package's own text is imported before it is called."""
    # OpenMP's threads spin while they wait. On a machine that others use too, they then hold the very core that the
    # thread they wait for needs, and everything becomes many times slower. OpenMP reads this when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from headgate.cli.app import run

    run()
