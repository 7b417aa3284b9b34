"""Commands about data sets: download, browse."""
