"""Files on disk: written atomically, named by hashes of their content, and checked for damage when read."""
