"""The texts stage from the inside: who is asked what, in which waves, at what price, and what is kept."""
