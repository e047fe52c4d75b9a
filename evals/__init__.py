"""Evaluations: how good, how right and how steady a fleet's answers and actions are."""
