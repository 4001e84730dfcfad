"""What the surface of an English text tells: which names and numbers it states, and whether it is prose."""
