"""What users and reviewers read: a page for each metric, how statistics are made, the form of a result."""
