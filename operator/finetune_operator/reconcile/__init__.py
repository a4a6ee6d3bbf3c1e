"""Decisions, one module per kind. Pure: no clock, no client, no environment."""
