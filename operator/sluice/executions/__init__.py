"""Executions: accepted on disk, queued within bounds, run in fair turns, remembered."""

from sluice.executions.service import Executions

__all__ = ["Executions"]
