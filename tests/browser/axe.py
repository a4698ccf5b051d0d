"""Checks a page with axe, for faults that keep some people from using it."""

from pathlib import Path

from playwright.sync_api import Page

_AXE = (Path(__file__).parent / "vendor" / "axe.js").read_text()


def violations(page: Page) -> list[tuple[str, list[str]]]:
    """Return the rules that are broken, each with the beginnings of the elements that break it."""
    found = page.evaluate(f"async () => {{ {_AXE}; return (await axe.run()).violations }}")
    return [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found]
