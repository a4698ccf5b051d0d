"""Which migrations a database has, and which this release needs: its processes do not run on an older schema."""

from pathlib import Path
from typing import Final

from sqlalchemy import Connection, text

from shared.errors import SettingsError

_VERSIONS: Final = Path(__file__).parents[1] / "migrations" / "versions"
_IS_READABLE: Final = text(
    """
    select to_regclass('public.schema_version') is not null
       and has_table_privilege(to_regclass('public.schema_version'), 'select')
    """
)
_REVISION: Final = text("select version_num from public.schema_version")


def newest_revision() -> str:
    """Return the number of this release's newest migration, by the names of their files."""
    return max(path.name[:4] for path in _VERSIONS.glob("[0-9]*.py"))


def refuse_older_schema(db: Connection) -> None:
    """Refuse to run on the schema of an earlier release; that of a later one has all that this release needs.

    Raises:
        SettingsError: The schema is older than this release.
    """
    if not db.execute(_IS_READABLE).scalar_one():
        return  # made by other means than ours: the statements will tell
    found, needed = db.execute(_REVISION).scalar_one_or_none(), newest_revision()
    if found is not None and found < needed:
        raise SettingsError(
            [
                f"the database's schema is {found} and this release needs {needed}: run `turnkeeper migrate` first"
            ]
        )
