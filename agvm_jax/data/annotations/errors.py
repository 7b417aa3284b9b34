"""DataError: what is wrong with a user's data, in one sentence with its remedy."""


class DataError(ValueError):
    """A data set, an annotation file or an image that cannot be used as it is."""


class UnreadableImage(DataError):
    """One image that cannot be decoded; the pipeline skips and counts it."""
