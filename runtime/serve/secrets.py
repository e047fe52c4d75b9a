"""Who holds providers' keys: the scheduler's replicas, and nobody else.

Agents run code that others have written: their tools, their graphs, and whatever these import. What is
not in their process cannot be used by it, by mistake or by a library that reads its key from the
environment. It is no wall against malice: whoever runs code on a node can reach what the node can.
"""

from __future__ import annotations

import itertools
import typing
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import AliasChoices, BaseModel, SecretStr
from pydantic.fields import FieldInfo

from admiralty.core.settings import Settings

VENDORS: Mapping[str, tuple[str, ...]] = {
    "anthropic": ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
    "azure_openai": ("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN"),
    "cohere": ("COHERE_API_KEY", "CO_API_KEY"),
    "deepseek": ("DEEPSEEK_API_KEY",),
    "fireworks": ("FIREWORKS_API_KEY",),
    "google_genai": ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
    "groq": ("GROQ_API_KEY",),
    "huggingface": ("HUGGINGFACEHUB_API_TOKEN", "HF_TOKEN"),
    "mistralai": ("MISTRAL_API_KEY",),
    "nvidia": ("NVIDIA_API_KEY",),
    "openai": ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY"),
    "perplexity": ("PPLX_API_KEY", "PERPLEXITY_API_KEY"),
    "together": ("TOGETHER_API_KEY",),
    "xai": ("XAI_API_KEY",),
}
"""Variables from which the clients of LangChain's providers take their keys by themselves."""


def without_keys(settings: Settings) -> Settings:
    """Return the settings without providers' keys. They still tell which model each tier has."""
    return _without(settings, _secret_fields(settings))


def without_secrets(settings: Settings) -> Settings:
    """Return the settings for processes that run agents only: without keys, and without passwords of
    databases and caches, which they have no business with.
    """
    return _without(settings, {*_secret_fields(settings), *_passwords(settings)})


def forget_keys(environment: MutableMapping[str, str], settings: Settings) -> None:
    """Remove providers' keys from ``environment``: those that settings come from, and those that the
    clients of the providers in use, of OpenAI and of Anthropic would look for.
    """
    forget_given_keys(environment)
    models = [*settings.tier_models.values(), *itertools.chain(*settings.fallbacks.values())]
    named = {model.partition(":")[0] for model in models}
    for provider in named | {"openai", "anthropic"}:
        for name in VENDORS.get(provider, ()):
            environment.pop(name, None)


def forget_given_keys(environment: MutableMapping[str, str]) -> None:
    """Remove the variables that secret settings come from: whoever has read the settings has them."""
    names = [name.upper() for name in _variables()]
    for given in list(environment):
        upper = given.upper()
        if any(upper == name or upper.startswith(f"{name}__") for name in names):
            del environment[given]


def _without(settings: Settings, fields: Iterable[str]) -> Settings:
    defaults = {name: Settings.model_fields[name].get_default(call_default_factory=True) for name in fields}
    # Which models there are follows from the keys that are there, so it is written down.
    return settings.model_copy(update={**defaults, "models": settings.tier_models})


def _secret_fields(settings: Settings) -> list[str]:
    return [name for name in type(settings).model_fields if _is_secret(Settings.model_fields[name])]


def _passwords(settings: Settings) -> list[str]:
    values = ((name, getattr(settings, name)) for name in type(settings).model_fields)
    return [
        name
        for name, value in values
        if isinstance(value, str) and "://" in value and "@" in urlsplit(value).netloc
    ]


def _is_secret(field: FieldInfo) -> bool:
    return _holds_secret(field.annotation)


def _holds_secret(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, SecretStr):
        return True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return any(_holds_secret(field.annotation) for field in annotation.model_fields.values())
    return any(_holds_secret(part) for part in typing.get_args(annotation))


def _variables() -> Iterable[str]:
    prefix = Settings.model_config["env_prefix"]
    for name, field in Settings.model_fields.items():
        if not _is_secret(field):
            continue
        yield f"{prefix}{name}"
        if isinstance(field.validation_alias, AliasChoices):
            yield from (str(choice) for choice in field.validation_alias.choices)
