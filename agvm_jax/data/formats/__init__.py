"""Formats of data sets: each file says what it `recognises`, and its `origins`."""
