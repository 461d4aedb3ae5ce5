"""The node as the session's own service, and talkoot links that open in the window."""
