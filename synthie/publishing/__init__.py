"""The data set from the inside: which texts are published, shards, statistics, versions, card."""
