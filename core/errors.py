"""The one tree of exceptions. Families are named by what the caller can do about them.

Vendor errors (Ray, SQLAlchemy, provider SDKs) are translated into these at the border where they
arise; nothing above that border needs to know the vendor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from admiralty.core.values import ModelReply


class AdmiraltyError(Exception):
    """Root of all errors raised by Admiralty.

    ``status`` is the HTTP status a door reports, ``code`` a stable machine-readable name,
    ``details`` what a client may see besides the message. All three survive pickling, because
    errors cross process borders between Serve deployments.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = details

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.details)


def _rebuild(kind: type[AdmiraltyError], message: str, details: dict[str, Any]) -> AdmiraltyError:
    return kind(message, **details)


# -- fix the definition or the settings -----------------------------------------------------------


class ConfigurationError(AdmiraltyError):
    """Settings or environment are wrong; nothing runs until they are mended."""

    code = "configuration_error"


class DefinitionError(ConfigurationError):
    """A definition in Python (agent, tool, fleet) is wrong: names key, value and remedy."""

    code = "definition_error"

    def __init__(self, key: str, value: object, problem: str, remedy: str) -> None:
        super().__init__(f"{key} = {value!r}: {problem}. {remedy}")
        self.key, self.value, self.problem, self.remedy = key, value, problem, remedy

    def __reduce__(self) -> tuple[Any, ...]:
        return DefinitionError, (self.key, self.value, self.problem, self.remedy)


class UnknownPrice(ConfigurationError):
    """Nobody knows what a model costs: it is not asked. ``details``: ``model``."""

    code = "unknown_price"


# -- fix the request ------------------------------------------------------------------------------


class InvalidRequest(AdmiraltyError):
    """The request itself is wrong; sending it again unchanged will fail again."""

    status = 400
    code = "invalid_request"


class NotFound(InvalidRequest):
    """What the request names does not exist, or not for this caller."""

    status = 404
    code = "not_found"


class Conflict(InvalidRequest):
    """The request is right in itself, but not in the present state of what it names."""

    status = 409
    code = "conflict"


class TooLarge(InvalidRequest):
    """The request is larger than the stated limit."""

    status = 413
    code = "request_too_large"


# -- ask someone ----------------------------------------------------------------------------------


class Unauthenticated(AdmiraltyError):
    """No valid key was given."""

    status = 401
    code = "unauthenticated"


class Denied(AdmiraltyError):
    """A rule forbids it for this caller."""

    status = 403
    code = "denied"


class BudgetExceeded(AdmiraltyError):
    """Too little money is left for the call in one of its budgets; it was not made.

    ``details``: ``budget_id``, ``scope``, ``window``, ``limit_usd``, ``spent_usd``, ``held_usd``,
    ``needed_usd``, ``resets_at`` (seconds since the epoch, or None).
    """

    status = 402
    code = "budget_exceeded"


# -- retry ----------------------------------------------------------------------------------------


class Retryable(AdmiraltyError):
    """May succeed later; ``retry_after`` gives seconds where they are known."""

    status = 503
    code = "unavailable"

    def __init__(self, message: str, *, retry_after: float | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, {"retry_after": self.retry_after} | self.details)


class RateLimited(Retryable):
    """Too much at once, here or at a provider."""

    status = 429
    code = "rate_limited"


class ProviderUnavailable(Retryable):
    """The model provider could not be reached, or answered with an error that may pass.

    ``details["billed"]`` is ``"unknown"`` where the provider may have charged for what it began: a
    connection lost after the request was sent. Missing, it means that nothing was charged.
    """

    status = 503
    code = "provider_unavailable"


class DeadlineExceeded(Retryable):
    """The deadline of the request passed before it was done."""

    status = 504
    code = "deadline_exceeded"


# -- give up --------------------------------------------------------------------------------------


class ProviderRejected(AdmiraltyError):
    """The model provider refused the call for good (bad key, unknown model, malformed input)."""

    status = 502
    code = "provider_rejected"


class OutputInvalid(AdmiraltyError):
    """The model's answer does not fit the declared output schema.

    ``reply`` is what it answered, where that is known: it was paid for all the same.
    """

    status = 502
    code = "output_invalid"

    def __init__(self, message: str, *, reply: ModelReply | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.reply = reply

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, {"reply": self.reply} | self.details)


class LimitExceeded(AdmiraltyError):
    """A turn met one of its limits (steps, handoffs, tool calls) and was ended by rule."""

    status = 422
    code = "limit_exceeded"


class RunInterrupted(Retryable):
    """The process that executed a run ended before the run did."""

    code = "run_interrupted"


class RunLost(RunInterrupted):
    """Another process has taken the run over: nothing that this one writes for it counts any more."""

    code = "run_taken_over"


# -- ask a person ---------------------------------------------------------------------------------


class ApprovalRequired(AdmiraltyError):
    """A person must allow it first. Raised by a tool before it has done anything, it pauses the run.

    ``details``: ``expires_seconds`` and ``default`` where they differ from the settings'.
    """

    status = 403
    code = "approval_required"


class EffectUnknown(AdmiraltyError):
    """A tool call began, and nobody knows whether it was carried out: a person must look.

    ``details``: ``tool``, ``call_id``, ``digest``, ``run_id``.
    """

    status = 409
    code = "effect_unknown"


class VersionConflict(Conflict):
    """A value was changed by somebody else since it was read.

    ``details``: ``namespace``, ``key``, ``expected``, ``found`` (versions; 0: there is none).
    """

    code = "version_conflict"


class LockLost(Conflict):
    """A lock's lease ran out, and somebody else may have it now: nothing was written.

    ``details``: ``namespace``, ``key``, ``fence``.
    """

    code = "lock_lost"


class Locked(Conflict):
    """Somebody else has the lock, and had it for as long as was waited.

    ``details``: ``namespace``, ``key``, ``lease_until`` (seconds since the epoch).
    """

    code = "locked"
