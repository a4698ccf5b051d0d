"""What a release says of its parts is what it installs. Needs the package index, as `make sbom` does."""

import json
import re
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.soak, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 360.0
SBOM = ROOT / "build" / "turnkeeper.cdx.json"
LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", re.MULTILINE)
HASH = re.compile(r"sha256:([0-9a-f]{64})")


def test_the_bill_of_materials_is_valid_and_lists_what_is_locked_with_its_hashes():
    SBOM.unlink(missing_ok=True)
    # It validates what it writes against CycloneDX's own schema, and fails otherwise.
    made = subprocess.run(
        ["make", "--no-print-directory", "sbom"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    bom = json.loads(SBOM.read_text())
    lock = (ROOT / "requirements-image.lock").read_text()
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    assert bom["metadata"]["component"]["name"] == "turnkeeper"
    assert {(each["name"], each["version"]) for each in bom["components"]} == set(LOCKED.findall(lock))
    told = {
        found["content"]
        for each in bom["components"]
        for reference in each["externalReferences"]
        for found in reference.get("hashes", [])
    }
    assert told == set(HASH.findall(lock))
    assert all(each["purl"].startswith("pkg:pypi/") for each in bom["components"])
    assert "serialNumber" not in bom, "two runs make the same file"
