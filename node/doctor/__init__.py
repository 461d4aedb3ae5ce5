"""What commonly goes wrong at a machine, looked at without starting anything."""
