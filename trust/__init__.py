"""Whom to believe: robust aggregation now, audits and reputation next. Pure arithmetic."""
