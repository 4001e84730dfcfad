"""The local page to read, compare and judge texts by hand: `synthie browse`."""
