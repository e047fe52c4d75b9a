"""Finding the fleet, its folders and its tools' resources."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from admiralty.agents import Fleet, FleetContext
from admiralty.core.clock import SystemClock
from admiralty.core.errors import AdmiraltyError, ConfigurationError
from admiralty.core.settings import Settings
from admiralty.core.values import Model
from admiralty.runtime.ledger.prices import PriceBook
from admiralty.runtime.policy import CedarPolicy


def load_fleet(reference: str) -> Fleet:
    """Import a fleet: ``package.module`` or ``package.module:name`` (by default ``fleet``).

    The working folder is searched first, then the fleets that ship with Admiralty.

    Raises ConfigurationError, naming what was looked for and where.
    """
    module_name, _, attribute = reference.partition(":")
    attribute = attribute or "fleet"
    if (folder := os.getcwd()) not in sys.path:
        sys.path.insert(0, folder)
    for name in (module_name, f"admiralty.{module_name}"):
        if not _exists(name):
            continue
        module = importlib.import_module(name)
        fleet = getattr(module, attribute, None)
        if not isinstance(fleet, Fleet):
            raise ConfigurationError(
                f"fleet = {reference!r}: {name} has no Fleet named {attribute!r}. "
                f"Define `{attribute} = Fleet(...)` in it, or name another as {module_name}:NAME."
            )
        return fleet
    raise ConfigurationError(
        f"fleet = {reference!r}: there is no module {module_name!r} in {folder} or among Admiralty's fleets. "
        "Try fleets.support, or run where your module lies."
    )


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def fleet_context(settings: Settings, fleet: Fleet) -> FleetContext:
    """Return what the fleet's ``setup`` and ``knowledge`` are given."""
    home = settings.resolved_home / "fleets" / fleet.name
    home.mkdir(parents=True, exist_ok=True)
    data = settings.data
    if data is not None:
        data = data.expanduser().resolve()
        if not data.exists():
            raise ConfigurationError(f"data = {str(data)!r}: no such folder. Check --data.")
    return FleetContext(home=home, data=data)


def setup_resources(settings: Settings, fleet: Fleet) -> Any:
    """Open what the fleet's tools need, in this process."""
    return fleet.setup(fleet_context(settings, fleet)) if fleet.setup else None


def check_fleet(settings: Settings, fleet: Fleet) -> None:
    """Do here, once, what every replica will do: wrong data is told now, not by a replica that fails.

    Raises ConfigurationError, also for a policy that does not hold together and for a model that has no
    price.
    """
    CedarPolicy.of(settings, fleet)
    prices = PriceBook.from_settings(settings, SystemClock())
    standing_in = [name for names in settings.fallbacks.values() for name in names]
    for name in sorted({*settings.tier_models.values(), *standing_in}):
        provider, _, model = name.partition(":")
        prices.quote(Model(provider=provider, name=model, tier="small"), 1)
    try:
        fleet.documents(fleet_context(settings, fleet))
        setup_resources(settings, fleet)
    except AdmiraltyError:
        raise
    except Exception as error:  # whatever a person's own setup raises
        raise ConfigurationError(
            f"fleet = {fleet.name!r}: its setup failed: {type(error).__name__}: {error}."
        ) from error


def data_folder(settings: Settings) -> Path:
    """Return the home folder, made if it is not there."""
    home = settings.resolved_home
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)  # it will hold what customers said
    except OSError as error:
        raise ConfigurationError(f"home = {str(home)!r}: {error.strerror}. Set ADMIRALTY_HOME.") from error
    return home
