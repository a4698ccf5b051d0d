"""Whether a response's body is encoded, by what its header says."""

from typing import Final

_NOTHING: Final = frozenset(
    {"", "identity", "none", "null", "utf-8", "utf8", "us-ascii", "7bit", "8bit", "binary"}
)
"""What stands in `Content-Encoding` where nothing is encoded: `none` is how Node servers turn a proxy's compression
off, and others mistake the header for a charset or for a transfer encoding of mail.
"""


def is_encoded(content_encoding: str) -> bool:
    """Return whether a `Content-Encoding`, which may be a list and empty, names a coding of the body."""
    return not _NOTHING.issuperset(coding.strip() for coding in content_encoding.lower().split(","))
