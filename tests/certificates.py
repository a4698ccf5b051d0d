"""Certificates of a test's own authority, made by the openssl command."""

import shutil
import subprocess
from pathlib import Path

import pytest

_KEY = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
_CERTIFICATES = (
    ("good", "ca", "localhost", 2),
    ("expired", "ca", "localhost", -1),
    ("other", "ca", "models.example", 2),
    ("unknown", "stranger", "localhost", 2),
)
"""Each file's name, the authority that signed it, its host and the days that it is valid."""


def make_certificates(folder: Path) -> Path:
    """Create `ca.pem` and, with one key `leaf.key`, `good.pem`, `expired.pem`, `other.pem` and `unknown.pem`."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make certificates")
    for name in ("ca", "stranger"):
        usage = "-addext keyUsage=critical,keyCertSign"
        _openssl(
            folder, f"req -x509 {_KEY} -keyout {name}.key -out {name}.pem -subj /CN={name} -days 2 {usage}"
        )
    _openssl(folder, f"req {_KEY} -keyout leaf.key -out leaf.csr -subj /CN=leaf")
    for name, authority, host, days in _CERTIFICATES:
        # RFC 5280's requirements for a certificate: from Python 3.13 on, less is refused.
        (folder / "leaf.cnf").write_text(
            f"subjectAltName=DNS:{host}\nbasicConstraints=CA:FALSE\nkeyUsage=digitalSignature\n"
            "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        )
        signed = f"-CA {authority}.pem -CAkey {authority}.key -CAcreateserial -extfile leaf.cnf"
        _openssl(folder, f"x509 -req -in leaf.csr {signed} -days {days} -out {name}.pem")
    return folder


def _openssl(folder: Path, command: str) -> None:
    subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
