"""Tests; see each module."""
