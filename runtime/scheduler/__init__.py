"""The scheduler: every model call passes its stages, one file each, in one visible order."""

from admiralty.runtime.scheduler.scheduler import LocalScheduler
from admiralty.runtime.scheduler.stages import default_stages

__all__ = ["LocalScheduler", "default_stages"]
