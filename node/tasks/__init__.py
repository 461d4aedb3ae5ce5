"""What can be trained: task kinds, found by the entry point `talkoot.tasks`."""
