"""Measurements of Admiralty beside what else one could run; never installed."""
