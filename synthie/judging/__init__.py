"""The judge stage: second opinions on a sample of the texts, and what they say about the whole data set."""
