"""The documentation as a site: it builds, and its pages lead to each other."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def test_the_site_builds_with_every_page_and_its_pages_lead_to_each_other(tmp_path: Path):
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--quiet",
        "--strict",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert built.returncode == 0, built.stderr
    site = tmp_path / "site"
    pages = {page.relative_to(DOCS) for page in DOCS.rglob("*.md")}
    for page in pages:
        name = page.with_name("index.html") if page.name == "README.md" else page.with_suffix(".html")
        assert (site / name).is_file(), page
    followed = 0
    for page in site.rglob("*.html"):
        if page.name == "404.html":
            continue  # its links begin at the root of wherever it is
        for link in re.findall(r'href="([^"#:]+\.html)[#"]', page.read_text()):
            assert (page.parent / link).resolve().is_file(), (page.name, link)
            followed += 1
    assert followed > 500
