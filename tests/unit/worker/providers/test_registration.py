"""The dialects that a worker speaks, and what they declare."""

from dataclasses import replace

import pytest

from shared.configuration.provider_settings import DIALECT_VARIABLES, ProviderName
from shared.errors import Fault, ProviderError
from tests.unit.worker.providers.test_openai_compatible import settings
from worker.providers.faults import error_names, fault_of_error, merged
from worker.providers.reading import Reading
from worker.providers.registration import DIALECTS, dialect_of, error_names_of


def test_every_provider_that_can_be_configured_has_a_dialect_and_a_row_of_variables():
    assert set(DIALECTS) == set(DIALECT_VARIABLES) == set(ProviderName)


@pytest.mark.parametrize(
    ("name", "trace_name"),
    [("anthropic", "anthropic"), ("openai-compatible", "openai"), ("scripted", "openai")],
)
def test_traces_name_a_dialect_as_opentelemetry_does(name, trace_name):
    assert DIALECTS[ProviderName(name)].trace_name == trace_name


@pytest.mark.parametrize("name", ProviderName)
@pytest.mark.parametrize(
    ("error", "fault"),
    [
        ({"type": "billing_error"}, Fault.PROVIDER_REJECTED),  # Anthropic's
        ({"code": "insufficient_quota"}, Fault.PROVIDER_RATE_LIMITED),  # OpenAI's
        ({"type": "invalid_request_error", "message": "Prompt is too long"}, Fault.CONTEXT_TOO_LONG),
        ({"type": "BadRequestError", "message": "Maximum context length is 8"}, Fault.CONTEXT_TOO_LONG),
    ],
)
def test_every_adapter_knows_the_errors_of_all_dialects_because_gateways_pass_them_on(name, error, fault):
    dialect = dialect_of(replace(settings(), name=name))
    assert dialect.error_names == error_names_of(name)
    assert fault_of_error(error, dialect.error_names) is fault


@pytest.mark.parametrize("name", ProviderName)
def test_every_reader_names_errors_as_its_adapter_does(name):
    dialect = dialect_of(replace(settings(), name=name))
    with pytest.raises(ProviderError) as raised:
        dialect.reader(Reading(1000)).feed("error", b'{"error":{"type":"billing_error"}}')
    assert raised.value.fault is Fault.PROVIDER_REJECTED


def test_where_two_dialects_differ_about_a_name_the_own_one_counts():
    own = error_names({Fault.PROVIDER_REJECTED: "busy"}, "too long")
    other = error_names({Fault.PROVIDER_OVERLOADED: "busy down"}, "too long", "too large")
    names = merged((own, other))
    assert dict(names.faults) == {"busy": Fault.PROVIDER_REJECTED, "down": Fault.PROVIDER_OVERLOADED}
    assert names.context_phrases == ("too long", "too large")
