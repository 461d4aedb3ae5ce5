"""Who belongs to a run: invites, members, bans, and what a host decides for everybody."""
