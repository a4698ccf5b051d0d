"""Fixtures for all contracts with a provider: certificates, and a small set of trusted authorities."""

import shutil

import pytest

from tests.certificates import make_certificates


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """A folder with an authority, `ca.pem`, and certificates that it and another one signed."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module", autouse=True)
def _small_trust(request):
    """Trust one authority: reading all that browsers trust takes 20 ms for each test's client.

    Per module, not per run: processes started after these tests would trust no other.
    """
    if shutil.which("openssl") is None:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(request.getfixturevalue("certificates") / "ca.pem"))
        yield
