"""Makes the two clients' methods from the operations in `calls`."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def described(method: F, build: Callable[..., Any], answer: type | str = inspect.Signature.empty) -> F:
    """Give a method the name, the description and the signature of the function that builds its call."""
    signature = inspect.signature(build)
    self = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    # `help()` and editors show the caller's arguments; the method's type describes the result.
    shown = signature.replace(parameters=[self, *signature.parameters.values()], return_annotation=answer)
    method.__name__ = build.__name__
    method.__qualname__ = build.__name__
    method.__doc__ = build.__doc__
    method.__signature__ = shown  # type: ignore[attr-defined]
    return method
