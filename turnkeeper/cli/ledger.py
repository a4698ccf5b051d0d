"""The options of `turnkeeper ledger`."""

from decimal import Decimal, InvalidOperation
from typing import Any, Final
from uuid import UUID

import click

from shared.money.usage import COLUMNS
from turnkeeper.cli.options import Declared, Group, Whole, up_option
from turnkeeper.owner import as_owner, environment, owner_url
from turnkeeper.up.records import Folder


@click.group(cls=Group)
def ledger() -> None:
    """Check and correct what was billed."""


_MOST_TOKENS: Final = 10**12
_MOST_USD: Final = Decimal(10**9)
_MOST_PLACES: Final = 18


class Usd(click.ParamType[Decimal]):
    """An amount in US dollars, not negative."""

    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        """Return the amount, or refuse it."""
        try:
            amount = Decimal(str(value))
        except InvalidOperation:
            amount = Decimal("NaN")
        exponent = amount.as_tuple().exponent
        if not isinstance(exponent, int) or exponent < -_MOST_PLACES or not 0 <= amount <= _MOST_USD:
            self.fail(f"use an amount from 0 to {_MOST_USD} with at most {_MOST_PLACES} places", param, ctx)
        return amount


def _token_options(command: Declared) -> Declared:
    """Give a command an option for each class of tokens; it receives a number, or None."""
    for name in reversed(COLUMNS):
        option = f"--{name.replace('_', '-')}"
        command = click.option(option, name, type=Whole(0, _MOST_TOKENS), metavar="N", help="in all")(command)
    return command


def _words(most: int) -> click.ParamType[str]:
    def text(value: str) -> str:
        words = value.strip()
        if not 0 < len(words) <= most or not words.isprintable():
            raise click.BadParameter(f"use 1 to {most} printable characters")
        return words

    return click.types.FuncParamType(text)


@ledger.command()
@click.option("--organization", "--org", "org", metavar="ORG", show_default="all", help="id or name")
@up_option
@as_owner
def check(org: str | None, data: Folder) -> int:
    """Prove that totals, ledger and holds agree."""
    from turnkeeper.commands.ledger import check

    return check(owner_url(environment(), data), org)


@ledger.command()
@click.argument("row", type=click.UUID)
@click.option(
    "--usd", type=Usd(), metavar="AMOUNT", help="what the row costs in all; else what its tokens cost"
)
@_token_options
@click.option(
    "--reason", type=_words(500), required=True, metavar="TEXT", help="why, for readers of the ledger"
)
@click.option("--by", "who", type=_words(200), required=True, metavar="WHO", help="who corrects it")
@click.option("--yes", is_flag=True, help="do not ask")
@click.option("--organization", "--org", "org", metavar="ORG", show_default="any", help="id or name")
@up_option
@as_owner
def correct(
    row: UUID,
    usd: Decimal | None,
    reason: str,
    who: str,
    yes: bool,
    org: str | None,
    data: Folder,
    **tokens: int | None,
) -> int:
    """Add the difference to what ROW, a row's id or its turn's, should have said.

    Nothing is changed or removed: a row is added that refers to ROW, and totals and budgets follow. Repeating it adds
    nothing.
    """
    from turnkeeper.commands.correction import Wanted, correct

    given = {name: count for name, count in tokens.items() if count is not None}
    if usd is None and not given:
        raise click.UsageError("name what the row should have said: --usd, or tokens such as --output-tokens")
    return correct(
        owner_url(environment(), data), org, row, Wanted(usd, given), reason=reason, who=who, asks=not yes
    )
