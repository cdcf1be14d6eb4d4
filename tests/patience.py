"""How long tests wait for what must happen."""

PATIENCE = 400.0
"""Seconds. A machine that is starved of processor time takes so many for what else takes one; a test that
proves a time limit names it itself."""
