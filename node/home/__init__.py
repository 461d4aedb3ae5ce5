"""Where a node lives: its folders, its configuration, its identity and its addresses."""
