"""The `turnkeeper` command: parses, loads only what the command needs, and turns errors into exit codes."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID

from shared.errors import SettingsError, TurnkeeperError
from turnkeeper.options import FAILED, INTERRUPTED, WRONG_USE, Command, count_of_processes, port_number
from turnkeeper.owner import as_owner, environment, organization, owner_url
from turnkeeper.up.records import DATA_FOLDER


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; return the exit code: 0 done, 1 failed, 2 wrong use or configuration."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    match arguments:
        # These two have command lines of their own.
        case ["provider", *rest]:
            from turnkeeper.scripted import main as provider

            return provider(rest)
        case ["worker", *rest]:
            return run(lambda: worker(rest))
    options = parser().parse_args(arguments)
    command: Command = options.command
    return run(lambda: command(options))


def run(command: Callable[[], int]) -> int:
    """Run a command and say its errors as a person reads them."""
    try:
        return command()
    except SettingsError as refused:
        print(f"turnkeeper: {refused}", file=sys.stderr)
        return WRONG_USE
    except TurnkeeperError as failed:
        print(f"turnkeeper: {failed}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """Return the grammar of the command line."""
    top = argparse.ArgumentParser(prog="turnkeeper", description="Durable LLM chat turns.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    add_up(commands.add_parser("up", help="run everything here, servers included"))
    for role in ("web", "relay"):
        add_service(commands.add_parser(role, help=f"run the {role} (gunicorn)"), role)
    commands.add_parser("worker", help="run a worker (Celery)", add_help=False)
    migrate_parser = commands.add_parser("migrate", help="bring the database's schema up to date")
    migrate_parser.set_defaults(command=as_owner(migrate))
    add_orgs(commands.add_parser("orgs", help="make and list organizations"))
    add_keys(commands.add_parser("keys", help="make, list and revoke API keys"))
    add_prices(
        commands.add_parser("prices", help="show what is billed for each model, and where that is from")
    )
    from turnkeeper.commands.ledger import add_ledger
    from turnkeeper.commands.users import add_users
    from turnkeeper.doctor.command import add_doctor

    add_doctor(commands.add_parser("doctor", help="check everything that the service needs"))
    add_ledger(commands.add_parser("ledger", help="check what was billed, spent and held"))
    add_users(commands.add_parser("users", help="export or erase what is kept of a user"))
    add_client(
        commands.add_parser("smoke", help="replay a turn against a running service and check it"), smoke
    )
    add_client(commands.add_parser("chat", help="chat on the terminal with a running service"), chat)
    commands.add_parser("provider", help="run the scripted provider", add_help=False)
    return top


def add_up(up_parser: argparse.ArgumentParser) -> None:
    """Give `up` its options."""
    up_parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    up_parser.add_argument(
        "--port", type=port_number, help="port to listen on (default: 8080, or the next free)"
    )
    up_parser.add_argument(
        "--data", type=Path, default=DATA_FOLDER, help="folder of the data (default: %(default)s)"
    )
    up_parser.add_argument(
        "--state", type=Path, metavar="FILE", help="write where it runs, as JSON, once it is ready"
    )
    for kind in ("web", "relay", "worker"):
        up_parser.add_argument(
            f"--{kind}",
            type=count_of_processes,
            default=1,
            metavar="N",
            help=f"{kind} processes (default: 1)",
        )
    up_parser.set_defaults(command=up)


def up(options: argparse.Namespace) -> int:
    """Run everything."""
    from rich.console import Console

    from turnkeeper.up.up import Plan, up

    processes = {"web": options.web, "relay": options.relay, "worker": options.worker}
    plan = Plan(options.data, options.state, options.host, options.port, processes)
    return up(plan, os.environ, Console())


def add_service(service_parser: argparse.ArgumentParser, role: str) -> None:
    """Give `web` and `relay` their options."""
    port = {"web": 8080, "relay": 8081}[role]
    where = service_parser.add_mutually_exclusive_group()
    where.add_argument(
        "--bind",
        default=f"127.0.0.1:{port}",
        help="HOST:PORT or unix:PATH to listen on (default: %(default)s)",
    )
    where.add_argument("--handoff", metavar="PATH", help="socket to take connections over from a front")
    service_parser.add_argument(
        "--processes", type=count_of_processes, default=1, help="serving processes (default: 1)"
    )
    service_parser.add_argument(
        "--grace",
        type=int,
        default=25,
        metavar="SECONDS",
        help="for requests at a stop (default: %(default)s)",
    )
    service_parser.add_argument("--pid-file", type=Path, help="where to write which process serves")
    service_parser.add_argument("--app", default="api.app:create_app", help=argparse.SUPPRESS)
    service_parser.set_defaults(command=serve, role=role)


def serve(options: argparse.Namespace) -> int:
    """Run gunicorn; it ends the process."""
    from shared.configuration.settings import load_settings
    from shared.observing.logs import configure_logging
    from turnkeeper.up.serve import Service, serve

    settings = load_settings(os.environ)
    configure_logging(settings.log_level, options.role, form=settings.log_format)
    service = Service(
        role=options.role,
        bind=options.handoff or options.bind,
        is_handoff=bool(options.handoff),
        factory=options.app,
        processes=options.processes,
        threads=settings.web_threads,
        grace_seconds=options.grace,
        pid_file=options.pid_file,
    )
    serve(service)
    return 0


def worker(arguments: Sequence[str]) -> int:
    """Run a worker in this very process."""
    from worker.main import main as run_worker

    return run_worker(arguments)


def migrate(_: argparse.Namespace) -> int:
    """Migrate as the owner; the application's login is made from `DATABASE_URL`."""
    from shared.postgres.migrate import migrate

    environ = environment()
    migrate(owner_url(environ), environ.get("DATABASE_URL", "").strip())
    return 0


def add_orgs(orgs_parser: argparse.ArgumentParser) -> None:
    """Give `orgs` its commands."""
    commands = orgs_parser.add_subparsers(required=True, metavar="COMMAND")
    create = commands.add_parser("create", help="make an organization and print its id")
    create.add_argument("name")
    create.set_defaults(command=as_owner(create_organization))
    commands.add_parser("list", help="list organizations").set_defaults(command=as_owner(list_organizations))


def create_organization(options: argparse.Namespace) -> int:
    """Make an organization."""
    from shared.postgres import accounts

    print(accounts.create_organization(owner_url(environment()), options.name))
    return 0


def list_organizations(_: argparse.Namespace) -> int:
    """List organizations, oldest first."""
    from shared.postgres import accounts

    for organization_id, name in accounts.list_organizations(owner_url(environment())):
        print(f"{organization_id}  {name}")
    return 0


def add_keys(keys_parser: argparse.ArgumentParser) -> None:
    """Give `keys` its commands."""
    commands = keys_parser.add_subparsers(required=True, metavar="COMMAND")
    create = commands.add_parser("create", help="make a key and print it, this once")
    create.add_argument("--role", choices=("user", "service", "admin"), default="service")
    create.add_argument("--user", help="whom a `user` key is bound to")
    create.add_argument("--name", default="", help="what you call it")
    create.set_defaults(command=as_owner(create_key))
    listing = commands.add_parser("list", help="list an organization's keys")
    listing.set_defaults(command=as_owner(list_keys))
    revoke = commands.add_parser("revoke", help="revoke a key")
    revoke.add_argument("key", type=UUID, help="its id, as `keys list` shows it")
    revoke.set_defaults(command=as_owner(revoke_key))
    for one in (create, listing):
        one.add_argument("--org", help="id or name (default: the only one)")


def create_key(options: argparse.Namespace) -> int:
    """Make a key and print it."""
    from shared.postgres import accounts

    if (options.role == "user") != bool(options.user):
        raise SettingsError(["--user is required with --role user, and only there"])
    url = owner_url(environment())
    print(
        accounts.create_key(
            url, organization(url, options.org), options.role, user=options.user, name=options.name
        )
    )
    return 0


def list_keys(options: argparse.Namespace) -> int:
    """List keys, newest first."""
    from shared.postgres import accounts

    url = owner_url(environment())
    for row in accounts.list_keys(url, organization(url, options.org)):
        state = "revoked" if row.revoked_at else "active"
        print(f"{row.id}  {row.role:<8} {state:<8} {row.prefix}…  {row.user or ''}  {row.name}".rstrip())
    return 0


def revoke_key(options: argparse.Namespace) -> int:
    """Revoke a key."""
    from shared.postgres import accounts

    if accounts.revoke_key(owner_url(environment()), options.key):
        return 0
    print(f"turnkeeper: there is no key {options.key} that is not revoked", file=sys.stderr)
    return FAILED


def add_prices(prices_parser: argparse.ArgumentParser) -> None:
    """Give `prices` its options."""
    prices_parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    prices_parser.set_defaults(command=prices)


def prices(options: argparse.Namespace) -> int:
    """Show the prices in force."""
    from rich.console import Console

    from turnkeeper.commands.prices import prices

    return prices(environment(), Console(), as_json=options.json)


def add_client(client_parser: argparse.ArgumentParser, command: Command) -> None:
    """Give a command that talks to a running service its options."""
    client_parser.add_argument(
        "--url", help="address of the service (default: that of the `up` that runs here)"
    )
    client_parser.add_argument("--key", help="API key (default: TURNKEEPER_KEY, or the `up`'s user key)")
    client_parser.add_argument(
        "--data", type=Path, default=DATA_FOLDER, help="folder of the `up` (default: %(default)s)"
    )
    client_parser.add_argument("--message", help="what to say" if command is smoke else argparse.SUPPRESS)
    client_parser.set_defaults(command=command)


def where(options: argparse.Namespace) -> tuple[str, str]:
    """Return the address and key of the service that is meant.

    Raises:
        SettingsError: Neither the options nor a running `up` say it.
    """
    from turnkeeper.up.records import STATE_NAME, read_state

    state = read_state(options.data / STATE_NAME)
    url = options.url or (state.url if state else "")
    key = options.key or os.environ.get("TURNKEEPER_KEY", "") or (state.user_key if state else "")
    missing = [
        f"{name} is required where no `turnkeeper up` runs"
        for name, value in (("--url", url), ("--key (or TURNKEEPER_KEY)", key))
        if not value
    ]
    if missing:
        raise SettingsError(missing)
    return url.rstrip("/"), key


def smoke(options: argparse.Namespace) -> int:
    """Replay a turn and check it."""
    from turnkeeper.commands.smoke import smoke

    url, key = where(options)
    return smoke(url, key, options.message)


def chat(options: argparse.Namespace) -> int:
    """Chat on the terminal."""
    from turnkeeper.commands.chat import chat

    url, key = where(options)
    return chat(url, key)
