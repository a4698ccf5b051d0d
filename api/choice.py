"""Which provider the API names for a turn, with its prices: the one in the turn's row, else the worker's choice."""

from api.statements.acceptance import TurnRequest
from api.statements.turns import ShownTurn
from shared.configuration.provider_settings import ProviderSettings
from shared.configuration.settings import Settings


def provider_of(
    settings: Settings,
    turn: TurnRequest | ShownTurn | None,  # noqa: ARG001 -- no turn names a provider yet
) -> ProviderSettings:
    """Return the provider that a worker would choose for a turn that has not run.

    Args:
        settings: The configuration.
        turn: The turn; None for the next one of a session.
    """
    return settings.provider


def names_of(settings: Settings, turn: ShownTurn) -> tuple[str, str]:
    """Return provider and model of a turn: those that it ran on, or would run on."""
    if turn.provider and turn.model:
        return turn.provider, turn.model
    chosen = provider_of(settings, turn)
    return turn.provider or chosen.name.value, turn.model or chosen.model
