"""The commands of the terminal, one module a group; each is a thin skin over a stage or a report."""
