"""What has to be done from end to end: the only room that knows all the others."""
