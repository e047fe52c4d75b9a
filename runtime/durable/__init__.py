"""Runs that outlive their process: rows, claims, fences, and what an execution leaves for the next."""
