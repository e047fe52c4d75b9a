"""Providers of models, behind one port. Only the scheduler's dispatch stage holds them."""
