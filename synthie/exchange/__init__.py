"""Data sets from and to the forms of others: exports, imports, the hub."""
