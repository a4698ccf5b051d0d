"""The scripted provider: an HTTP server that plays a model and remembers exactly what it received and sent.

It speaks the OpenAI and the Anthropic dialect over real HTTP, misbehaves on demand, and is the independent
oracle of tests, chaos runs and benchmarks. `directives` lists what a script can direct.
"""

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Run the provider until SIGTERM or SIGINT.

    Args:
        argv: The command line, without the program's name; `--help` lists it.

    Returns:
        The process's exit status.
    """
    from turnkeeper.scripted.command import run

    return run(argv)
