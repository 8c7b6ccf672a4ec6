"""A search over settings: what may be chosen, which trial comes next, which trial is best.

Every function here is a function of its arguments alone. So a search that was killed goes on by asking the
same questions again.
"""
