"""The release that is running."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version


def version() -> str:
    """Return the release, `unknown` if the package is not installed."""
    try:
        return installed_version("turnkeeper")
    except PackageNotFoundError:
        return "unknown"
