"""What the page has of others is what was published: each file by its hash, each package with its licence."""

import hashlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = [ROOT / "api" / "page" / "vendor", ROOT / "tests" / "browser" / "vendor"]
OWN = {"MANIFEST.json", "LICENSES.txt"}


def manifest(folder: Path) -> dict:
    return json.loads((folder / "MANIFEST.json").read_text())


@pytest.mark.parametrize("folder", FOLDERS, ids=["page", "tests"])
def test_each_vendored_file_is_the_one_that_was_copied(folder: Path):
    listed = {entry["file"]: entry["sha256"] for entry in manifest(folder)["files"]}
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there - OWN == set(listed)
    for name, sha256 in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256, name


@pytest.mark.parametrize("folder", FOLDERS, ids=["page", "tests"])
def test_each_vendored_package_is_the_locked_one_and_brings_its_licence(folder: Path):
    locked = json.loads((ROOT / "page-vendor" / "package-lock.json").read_text())["packages"]
    licences = (folder / "LICENSES.txt").read_text()
    facts = manifest(folder)
    assert {entry["package"] for entry in facts["files"]} <= {
        package["name"] for package in facts["packages"]
    }
    for package in facts["packages"]:
        lock = locked[f"node_modules/{package['name']}"]
        assert (package["version"], package["integrity"]) == (lock["version"], lock["integrity"])
        assert f"{package['name']} {package['version']} ({package['license']})" in licences
    wanted = json.loads((ROOT / "page-vendor" / "package.json").read_text())
    versions = {**wanted["dependencies"], **wanted["devDependencies"]}
    for entry in facts["files"]:
        assert versions[entry["package"]] == entry["version"]
