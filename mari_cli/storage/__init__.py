"""What is written to disk: atomically, found again by its content, and never believed where it is damaged."""
